"""Firing rates and operations of real runs, against recounts of what the layers saw and did."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bkdsnn import models, paper
from bkdsnn.analysis.activity import Counts, analyse, measure
from bkdsnn.analysis.records import activity_path, read_activity
from bkdsnn.data import prepare
from bkdsnn.errors import UserError
from bkdsnn.execute import execute, open_loader
from bkdsnn.models.neurons import Spiking
from bkdsnn.runs import RunFolder

CPU = torch.device("cpu")
# One run of each family and form: table, row, column.
RUNS = {
    "ann": ("table2a", "ann", "resnet20-cifar10"),
    "spiking": ("table2a", "tet", "resnet19-cifar10"),
    "sew": ("table2a", "sew-resnet", "resnet20-cifar10"),
    "spikformer": ("table2b", "spikformer", "sformer-4-256-cifar10"),
    "spikingformer": ("table2b", "spikingformer-cml", "sformer-4-256-cifar10"),
    "spikingformer-ann": ("table5b", "transformer-8-768", "operations"),
    "meta": ("table3a", "meta-spikeformer", "mformer-8-256-imagenet"),
    "wide-7b": ("table3b", "none", "wide-7b-net-t4"),
    "vit": ("table2b", "ann", "sformer-4-256-cifar10"),
}


def spec_of(name):
    table, row, column = RUNS[name]
    return paper.plan(table, "smoke").cell(row, column).runs[0]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with the data of every run, and `sew` finished."""
    folder = tmp_path_factory.mktemp("results")
    for spec in {spec_of(name).dataset.name: spec_of(name) for name in RUNS}.values():
        prepare(spec.dataset, None, folder / "data" / f"{spec.dataset.name}.json")
    spec = spec_of("wide-7b")
    from bkdsnn.data.events.frames import convert

    convert(spec.dataset, folder / "data" / f"{spec.dataset.name}.json", spec.network.timesteps)
    execute(spec_of("sew"), folder, folder, CPU, None)
    return folder


def lively(spec):
    """An untrained network whose norms shift it, so that its neurons fire."""
    torch.manual_seed(1)
    network = models.build(spec.network, spec.dataset)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0.3, 0.5)
    return network


@pytest.mark.parametrize("name", RUNS)
def test_rates_are_those_of_a_recount(name, results):
    spec = spec_of(name)
    network, loader = lively(spec), open_loader(spec, results, CPU)
    found = measure(spec, network, loader)
    seen, fired, features = {}, {}, []

    def keep(store, key, index):
        return lambda module, inputs, output: store.setdefault(key, []).append(
            (inputs[0], output)[index].double().numpy()
        )

    hooks = [
        module.register_forward_hook(
            keep(fired if isinstance(module, Spiking) else seen, key, isinstance(module, Spiking))
        )
        for key, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | Spiking)
    ]
    with torch.no_grad():
        for images, _ in loader.test():
            features.append(network(images, (network.taps[-1],)).features[network.taps[-1]].double().numpy())
    for hook in hooks:
        hook.remove()
    layers = {layer.name: layer for layer in found.layers}
    for key, parts in seen.items():
        entries = np.concatenate([part.ravel() for part in parts])
        assert layers[key].rate == (entries != 0).mean()
        assert layers[key].binary == bool(np.isin(entries, (0, 1)).all())
    assert found.neurons.keys() == fired.keys()
    for key, parts in fired.items():
        assert found.neurons[key] == np.concatenate([part.ravel() for part in parts]).mean()
    over_time = np.concatenate([part.mean(0) for part in features])  # Eq. 3
    assert found.feature.mean == pytest.approx(over_time.mean(), abs=1e-6)  # Eq. 11
    assert found.test_images == len(over_time) == loader.test_size
    assert found.timesteps == spec.network.timesteps


@pytest.mark.parametrize(("name", "parts"), [("spikformer", 3), ("spikingformer", 3), ("meta", 1)])
def test_q_k_v_and_attention_of_every_block(name, parts, results):
    spec = spec_of(name)
    network = lively(spec)
    found = measure(spec, network, open_loader(spec, results, CPU))
    assert [block.name for block in found.blocks] == list(network.taps)
    for block in found.blocks:
        attention = network.layer(block.name).attention
        if parts == 3:  # one layer of neurons for q, k and v
            key = next(key for key, module in network.named_modules() if module is attention.qkv_neuron)
            assert np.mean([block.q, block.k, block.v]) == pytest.approx(found.neurons[key], rel=1e-12)
            assert len({block.q, block.k, block.v}) > 1
        else:
            for part, rate in (("q", block.q), ("k", block.k), ("v", block.v)):
                key = next(k for k, m in network.named_modules() if m is getattr(attention, part)[-1])
                assert rate == found.neurons[key]
        last = attention.attention_neuron if parts == 3 else attention.mixed
        assert block.attention == found.neurons[next(k for k, m in network.named_modules() if m is last)]


@pytest.mark.parametrize("name", ["sew", "spikingformer", "wide-7b"])
def test_the_size_of_the_batches_changes_nothing(name, results):
    spec = spec_of(name)
    network = lively(spec)
    sizes = (spec.recipe.batch_size, 7)
    specs = [spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"batch_size": size})}) for size in sizes]
    first, second = (measure(spec, network, open_loader(other, results, CPU)) for other in specs)
    assert first.layers == second.layers and first.neurons == second.neurons and first.top1 == second.top1
    assert first.feature.mean == pytest.approx(second.feature.mean, rel=1e-6)


def test_hooks_leave_no_trace():
    spec = spec_of("sew")
    network = models.build(spec.network, spec.dataset)
    Counts(network).remove()
    assert not any(module._forward_hooks for module in network.modules())


def test_an_analysis_belongs_to_its_run(results, tmp_path):
    spec = spec_of("sew")
    path = analyse(spec, results, CPU)
    assert path == activity_path(spec.name, results)
    first = path.read_bytes()
    assert analyse(spec, results, CPU).read_bytes() == first
    activity = read_activity(spec, results)
    metrics = json.loads((RunFolder(results / "runs", spec).path / "metrics.json").read_text())
    assert activity.top1 == metrics["top1"]["last"]
    assert read_activity(spec_of("spiking"), results) is None
    path.write_bytes(first.replace(spec.digest.encode(), b"0" * 64))
    with pytest.raises(UserError, match=r"activity\.json: 'spec' is '0{64}', expected .*python -m bkdsnn activity"):
        read_activity(spec, results)
    path.write_bytes(first[:100])
    with pytest.raises(UserError, match=r"activity\.json.*remove that file"):
        read_activity(spec, results)


def test_an_unfinished_run_is_refused(results):
    with pytest.raises(UserError, match="not finished"):
        analyse(spec_of("ann"), results, CPU)


def test_weights_of_another_accuracy_are_refused(results, tmp_path):
    spec = spec_of("sew")
    path = RunFolder(results / "runs", spec).path / "metrics.json"
    kept = path.read_text()
    content = json.loads(kept)
    content["top1"]["last"] = 100 - content["top1"]["last"] / 2
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(UserError, match=r"weights\.safetensors: classifies .* expected"):
            analyse(spec, results, CPU)
    finally:
        path.write_text(kept)
    assert load_file(path.with_name("weights.safetensors"))
