"""Firing rates and operations of real runs, against recounts of what the layers saw and did."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import op_counter
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bkdsnn import cli, models
from bkdsnn.analysis import energy, test_set
from bkdsnn.analysis.activity import analyse, count_activity
from bkdsnn.analysis.activity_records import activity_path, read_activity
from bkdsnn.analysis.counts import counting
from bkdsnn.config import paper
from bkdsnn.core import progress
from bkdsnn.core.errors import UserError
from bkdsnn.data import prepare
from bkdsnn.data.events.frames import convert
from bkdsnn.models.neurons import Spiking
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import execute, open_loader

CPU = torch.device("cpu")
# One run of each family and form: table, row, column.
RUNS = {
    "ann": ("table2a", "ann", "resnet20-cifar10"),
    "spiking": ("table2a", "tet", "resnet19-cifar10"),
    "sew": ("table2a", "sew-resnet", "resnet20-cifar10"),
    "sew-50": ("table2c", "sew-resnet", "resnet50-imagenet"),
    "qcfs-snn": ("table2a", "qcfs", "resnet20-cifar10"),
    "spikformer": ("table2b", "spikformer", "sformer-4-256-cifar10"),
    "spikingformer": ("table2b", "spikingformer-cml", "sformer-4-256-cifar10"),
    "spikingformer-ann": ("table5b", "transformer-8-768", "operations"),
    "spikingformer-events": ("table3b", "none", "sformer-2-256-t4"),
    "meta": ("table3a", "meta-spikeformer", "mformer-8-256-imagenet"),
    "wide-7b": ("table3b", "none", "wide-7b-net-t4"),
    "vit": ("table2b", "ann", "sformer-4-256-cifar10"),
}
STEMS = {"spikformer": "stem.0.0", "spikingformer": "stem.0.0", "meta": "stem.0", "wide-7b": "stem.0"}
WITH_QKV = {"spikformer": "qkv_neuron", "spikingformer": "qkv_neuron", "spikingformer-events": "qkv_neuron", "meta": ""}


def spec_of(name):
    if name == "qcfs":
        return spec_of("qcfs-snn").source
    table, row, column = RUNS[name]
    return paper.plan(table, "smoke").cell(row, column).runs[0]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with the data of every run, and `sew` finished."""
    folder = tmp_path_factory.mktemp("results") / "smoke"
    specs = {spec_of(name).dataset.name: spec_of(name) for name in RUNS}
    for spec in specs.values():
        manifest = folder / "data" / f"{spec.dataset.name}.json"
        prepare(spec.dataset, None, manifest)
        if spec.dataset.events:
            convert(spec.dataset, manifest, spec.network.timesteps)
    execute(spec_of("sew"), folder, folder, CPU, None)
    return folder


@pytest.fixture
def finished(results):
    """The folder of the finished run, put back afterwards."""
    folder = RunFolder(results / "runs", spec_of("sew")).path
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    yield folder
    for path, content in kept.items():
        path.write_bytes(content)


def opened(name, results):
    """The spec of a run, its untrained network with norms of its data, so that neurons fire, and the data."""
    spec = spec_of(name)
    loader = open_loader(spec, results, CPU)
    torch.manual_seed(1)
    network = models.build(spec.network, spec.dataset).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.normal_(module.bias, 0.3, 0.5)
    images, _ = next(loader.test())
    with torch.no_grad():
        network(images)
    return spec, network.eval(), loader


def counted(name, results):
    """What one batch costs: the spec, the layers but norms, the blocks, and the multiplications that torch counts."""
    spec, network, loader = opened(name, results)
    images, _ = next(loader.test())
    with (
        torch.no_grad(),
        counting(network) as counts,
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as f,
    ):
        network(images)
    layers = [layer for layer in counts.layers(len(images)) if layer.kind != "norm"]
    return spec, layers, counts.blocks(), f.get_total_flops() / 2 / len(images)


def captured(network, loader):
    """Inputs and outputs of every module over the test set, float64, batches joined, and the last features by image."""
    seen, fired, features = {}, {}, []

    def keep(name):
        def hook(module, inputs, output):
            for store, tensor in ((seen, inputs[0]), (fired, output)):
                store.setdefault(name, []).append(tensor.double().numpy().copy())

        return hook

    wanted = (nn.Conv2d, nn.Linear, Spiking)
    hooks = [one.register_forward_hook(keep(name)) for name, one in network.named_modules() if isinstance(one, wanted)]
    with torch.no_grad():
        for images, _ in loader.test():
            features.append(network(images, (network.taps[-1],)).features[network.taps[-1]].double().numpy())
    for hook in hooks:
        hook.remove()
    seen, fired = ({name: np.concatenate(parts) for name, parts in store.items()} for store in (seen, fired))
    return seen, fired, np.concatenate([part.swapaxes(0, 1) for part in features])


@pytest.mark.parametrize("name", [*RUNS, "qcfs"])
def test_rates_are_those_of_a_recount(name, results):
    spec, network, loader = opened(name, results)
    found = count_activity(spec, network, loader)
    seen, fired, features = captured(network, loader)
    layers = {layer.name: layer for layer in found.layers if layer.kind in ("conv", "linear")}
    spikes = {key for key, module in network.named_modules() if isinstance(module, Spiking)}
    assert layers.keys() == seen.keys() - spikes
    for key, layer in layers.items():
        assert layer.rate == (seen[key] != 0).mean()
        assert layer.binary == bool(np.isin(seen[key], (0, 1)).all())
        assert layer.integer == bool((seen[key] % 1 == 0).all())
        assert layer.passes == len(seen[key]) / loader.test_size
    assert found.neurons.keys() == spikes
    assert all(found.neurons[key] == fired[key].mean() for key in spikes)
    assert found.feature.mean == pytest.approx(features.mean(1).mean(), abs=1e-6)  # Eq. 11 of the mean over time
    assert found.feature.nonzero == (features != 0).mean()
    assert found.feature.binary == bool(np.isin(features, (0, 1)).all())
    assert found.feature.integer == bool((features % 1 == 0).all())
    assert found.test_images == len(features) == loader.test_size
    assert found.timesteps == spec.network.timesteps


@pytest.mark.parametrize("name", [*RUNS, "qcfs"])
def test_multiply_accumulates_are_those_that_torch_counts(name, results):
    _, layers, _, macs = counted(name, results)
    assert sum(layer.macs * layer.passes for layer in layers) == macs


@pytest.mark.parametrize("name", RUNS)
def test_the_stem_sees_a_still_image_once_and_the_rest_every_step(name, results):
    spec, (first, *rest), _, _ = counted(name, results)
    assert first.name == STEMS.get(name, first.name)
    assert first.passes == (spec.network.timesteps if spec.dataset.events else 1)
    assert {layer.passes for layer in rest} == {spec.network.timesteps}


@pytest.mark.parametrize("name", WITH_QKV)
def test_q_k_v_and_attention_of_every_block(name, results):
    spec, network, loader = opened(name, results)
    found = count_activity(spec, network, loader)
    _, fired, _ = captured(network, loader)
    names = {module: key for key, module in network.named_modules()}
    assert [block.name for block in found.blocks] == list(network.taps)
    for block in found.blocks:
        attention = network.layer(block.name).attention
        if WITH_QKV[name]:
            parts = np.split(fired[names[attention.qkv_neuron]], 3, axis=1)
        else:
            parts = [fired[names[layer[-1]]] for layer in (attention.q, attention.k, attention.v)]
        assert [block.q, block.k, block.v] == [part.mean() for part in parts]
        assert len({block.q, block.k, block.v}) == 3
        last = attention.attention_neuron if WITH_QKV[name] else attention.mixed
        assert block.attention == fired[names[last]].mean()


@pytest.mark.parametrize(("size", "names"), [(64, ["kv", "q(kv)"]), (16, ["qk", "(qk)v"])])
def test_products_of_attention_are_driven_by_their_rarer_operand(results, size, names):
    """In both orders: 16 tokens and 1 token of 8 channels a head."""
    spec, network, _ = opened("spikingformer-events", results)
    with torch.no_grad(), counting(network) as counts:
        network(torch.poisson(torch.full((2, *network.sample, size, size), 0.5)))
    tokens, width, heads = (size // 16) ** 2, spec.network.dim, spec.network.heads
    products = [layer for layer in counts.layers(2) if layer.kind == "attention"]
    blocks = counts.blocks()
    assert [layer.name for layer in products] == [f"{one.name}.attention:{name}" for one in blocks for name in names]
    assert {layer.macs for layer in products} == {tokens * width * min(tokens, width // heads)}
    for block, first, second in zip(blocks, products[::2], products[1::2], strict=True):
        expected = (min(block.k, block.v), block.q) if names[0] == "kv" else (min(block.q, block.k), block.v)
        assert (first.rate, second.rate) == expected
    assert all(layer.binary and layer.integer for layer in products)


@pytest.mark.parametrize(("name", "tokens"), [("spikingformer-ann", 4), ("vit", 17)])
def test_softmax_takes_the_left_product_first(name, tokens, results):
    spec, layers, blocks, _ = counted(name, results)
    products = [layer for layer in layers if layer.kind == "attention"]
    assert [layer.name.split(":")[1] for layer in products] == ["qk", "(qk)v"] * spec.network.depth
    assert {layer.macs for layer in products} == {tokens**2 * spec.network.dim}
    assert not blocks
    names = [layer.name for layer in layers]
    project = {"vit": "blocks.0.attn.proj", "spikingformer-ann": "block1.attention.project.0"}[name]
    assert names.index(project) == names.index(products[1].name) + 1  # in order of use


@pytest.mark.parametrize("name", ["spikformer", "spikingformer", "sew-50", "wide-7b", "meta"])
def test_strict_operations_are_those_that_spikingjelly_counts(name, results):
    """Of linear layers and 1x1 convolutions: where there are borders, spikingjelly leaves them out."""
    spec, network, loader = opened(name, results)
    images, _ = next(loader.test())
    counters = op_counter.ACCounter(), op_counter.MACCounter()
    with torch.no_grad(), counting(network) as counts, op_counter.DispatchCounterMode(list(counters)):
        network(images)
    found = count_activity(spec, network, loader)  # the rest of an activity
    found = found.model_copy(update={"layers": counts.layers(len(images))})
    for layer in found.layers:
        module = None if layer.kind == "attention" else network.get_submodule(layer.name)
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            operations = [sum(one.records[f"{type(network).__name__}.{layer.name}"].values()) for one in counters]
            acs, macs = operations
            strict = energy.strict_layer(found, layer)
            assert len(images) * strict.macs == macs
            assert len(images) * strict.acs == pytest.approx(acs, rel=1e-12)


@pytest.mark.parametrize("name", ["sew", "spikingformer", "wide-7b", "vit"])
def test_the_size_of_the_batches_changes_nothing(name, results):
    spec, network, _ = opened(name, results)
    sizes = (spec.recipe.batch_size, 7)
    assert open_loader(spec, results, CPU).test_size % 7  # the last batch is a smaller one
    specs = [spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"batch_size": size})}) for size in sizes]
    first, second = (count_activity(spec, network, open_loader(other, results, CPU)) for other in specs)
    assert first.layers == second.layers and first.neurons == second.neurons and first.top1 == second.top1
    assert first.feature.mean == pytest.approx(second.feature.mean, rel=1e-6)
    if first.feature.integer:
        assert first.feature == second.feature


def test_hooks_leave_no_trace_even_of_a_failure():
    spec = spec_of("sew")
    network = models.build(spec.network, spec.dataset)
    with pytest.raises(UserError), counting(network):
        network(torch.zeros(1, 3, 8, 8), ("stage9",))
    assert not any(module._forward_hooks for module in network.modules())


def test_an_analysis_belongs_to_its_run(results, finished):
    spec = spec_of("sew")
    path = analyse(spec, results, CPU)
    assert path == activity_path(spec.name, results)
    first = path.read_bytes()
    assert analyse(spec, results, CPU).read_bytes() == first
    found = read_activity(spec, results)
    assert found.top1 == json.loads((finished / "metrics.json").read_text())["top1"]["last"]
    assert found.run == spec.name and found.spec == spec.digest
    assert read_activity(spec_of("spiking"), results) is None
    again = r"remove that file and make it again with `python -m bkdsnn activity <run>`"
    path.write_bytes(first.replace(spec.digest.encode(), b"0" * 64))
    with pytest.raises(UserError, match=rf"activity\.json: 'spec' is '0{{64}}', expected .*{again}"):
        read_activity(spec, results)
    for damaged in (first[:100], b"", b"\xff", first.replace(b'"rate": ', b'"rate": 2'), b'{"run": "x"}'):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"activity\.json.*{again}"):
            read_activity(spec, results)
    path.unlink()


def test_the_command_writes_it_and_loads_nothing_that_it_does_not_need(results):
    spec = spec_of("sew")
    line = ["activity", spec.name, "--scale", "smoke", "--results", str(results.parent), "--device", "cpu"]
    heavy = ["matplotlib", "pandas", "timm", "torchvision", "sklearn", "torch._dynamo"]
    loaded = f"[name for name in {heavy} if name in sys.modules]"
    script = f"import sys; from bkdsnn.cli import main; code = main({line}); print({loaded}); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert "analysed, top-1" in done.stderr
    assert read_activity(spec, results).layers
    activity_path(spec.name, results).unlink()


def test_an_unfinished_run_is_refused(results, capsys):
    spec = spec_of("ann")
    with pytest.raises(UserError, match=f"run {spec.name} is not finished; .* train {spec.name}"):
        analyse(spec, results, CPU)
    line = ["activity", spec.name, "--scale", "smoke", "--results", str(results.parent), "--device", "cpu"]
    assert cli.main(line) == 1
    assert not activity_path(spec.name, results).exists()


def test_weights_of_another_network_are_refused(results, finished):
    spec = spec_of("sew")
    path = finished / "metrics.json"
    content = json.loads(path.read_text())
    last = content["top1"]["last"]
    images = content["test_images"]
    content["top1"]["last"] = content["top1_by_timestep"][-1] = last + 100 * (3 if last < 50 else -3) / images
    path.write_text(json.dumps(content))
    (finished / "predictions.npz").unlink()
    expected = rf"weights\.safetensors: classifies {last:.2f} % of {images} images right, expected "
    with pytest.raises(UserError, match=expected + f"{content['top1']['last']:.2f} %"):
        analyse(spec, results, CPU)
    # as another device may round
    content["top1"]["last"] = content["top1_by_timestep"][-1] = last + 100 * (1 if last < 50 else -1) / images
    path.write_text(json.dumps(content))
    assert read_activity(spec, results) is None
    assert analyse(spec, results, CPU).is_file()
    activity_path(spec.name, results).unlink()


def test_other_data_than_the_run_saw_are_refused(results, finished):
    path = finished / "metrics.json"
    content = json.loads(path.read_text())
    content["dataset"]["digest"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"metrics\.json: the run used data with digest 0{10}, but .*: other data"):
        analyse(spec_of("sew"), results, CPU)


def test_a_long_analysis_says_how_far_it_is(results, monkeypatch, caplog):
    spec, network, _ = opened("sew", results)
    monkeypatch.setattr(test_set, "EVERY", 0.0)
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"batch_size": 5})})
    with caplog.at_level("INFO", logger=progress.log.name):
        count_activity(spec, network, open_loader(spec, results, CPU))
    size = spec.dataset.digits.test
    assert f"{spec.name}: 5/{size} test images" in caplog.text and f"{size}/{size} test images" in caplog.text
