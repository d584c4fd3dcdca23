"""The weights that a run begins with: those of another run, to the bit, or published ones, with or without the head."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from bkdsnn import data, models
from bkdsnn.config import Pretrained, paper
from bkdsnn.core import streams
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.data.published import stored
from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import execute
from bkdsnn.training.sources import load_source

CPU = torch.device("cpu")
COLUMN = "mformer-8-256-imagenet"
STILL = {"lr": 1e-30, "weight_decay": 0.0}  # so small a step leaves weights as they are
SHA256 = "0123abcd" * 8


def meta(method, **recipe):
    return changed(paper.plan("table3a", "smoke").cell(method, COLUMN).runs[0], **recipe)


def changed(spec, **recipe):
    """The run with changes to its recipe."""
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update=recipe)})


def seeded(network, dataset, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(seed, "init"))
        return models.build(network, dataset)


def run(spec, results, minutes=None):
    execute(spec, results, results / "resources", CPU, minutes)
    return RunFolder(results / "runs", spec).path


def prepared(results, spec):
    data.prepare(spec.dataset, None, results / "data" / f"{spec.dataset.name}.json")
    return results


def load(spec, results, seed=0):
    """The state dict of a network of the run, before and after it takes the weights of the run's source."""
    network = seeded(spec.network, spec.dataset, seed)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_source(network, spec, RunFolder(results / "runs", spec), results / "resources")
    return before, network.state_dict()


def equal(one, other, keys=None):
    """Whether two state dicts have the same bits, in all tensors or in those of `keys`."""
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in (one if keys is None else keys))


# --- another run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Results folder with Meta-SpikeFormer trained at T = 1, with and without the head that imitates a teacher."""
    results = prepared(tmp_path_factory.mktemp("results"), meta("meta-spikeformer"))
    for spec in (meta("ann"), meta("meta-spikeformer"), meta("meta-spikeformer-kd")):
        run(spec, results)
    return results


@pytest.mark.parametrize("method", ["meta-spikeformer-tuned", "meta-spikeformer-kd-tuned", "bkdsnn"])
def test_four_time_steps_begin_with_the_weights_of_one(pretrained, method):
    spec = meta(method)
    assert (spec.source.network.timesteps, spec.network.timesteps) == (1, 4)
    before, loaded = load(spec, pretrained)
    source = load_file(RunFolder(pretrained / "runs", spec.source).path / "weights.safetensors")
    assert equal(loaded, source) and not equal(before, source)


@pytest.mark.parametrize("method", ["meta-spikeformer-tuned", "meta-spikeformer-kd-tuned"])
def test_training_begins_with_the_weights_of_the_source(pretrained, method):
    spec = meta(method, **STILL)
    trained = load_file(run(spec, pretrained) / "weights.safetensors")
    source = load_file(RunFolder(pretrained / "runs", spec.source).path / "weights.safetensors")
    for key, _ in seeded(spec.network, spec.dataset).named_parameters():
        torch.testing.assert_close(trained[key], source[key], rtol=0, atol=1e-25)
    counter = "stem.1.num_batches_tracked"  # norms go on counting from the source, too
    assert trained[counter] == 2 * source[counter] > 0


def test_an_interrupted_fine_tuning_goes_on_and_does_not_begin_again(pretrained):
    spec = meta("meta-spikeformer-tuned", lr=1e-2)
    folder = RunFolder(pretrained / "runs", spec)
    seen = []
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(spec, pretrained, minutes=1e-9)
        tensors, header = checkpoint.read_tensors(folder.checkpoint)
        seen.append(tensors["student/head.weight"])
    source = load_file(RunFolder(pretrained / "runs", spec.source).path / "weights.safetensors")["head.weight"]
    first, second = ((after - before).abs().max() for before, after in ((source, seen[0]), (source, seen[1])))
    assert header["position"]["step"] == 2 and 0 < first < second


def test_a_source_that_is_not_finished_is_named(tmp_path):
    spec = meta("meta-spikeformer-tuned")
    with pytest.raises(UserError, match=rf"run {spec.source.name} is not finished"):
        load(spec, tmp_path)


def test_a_source_that_lacks_a_tensor_is_named(pretrained, tmp_path):
    spec = meta("meta-spikeformer-tuned")
    source, folder = (RunFolder(results / "runs", spec.source).path for results in (pretrained, tmp_path))
    tensors, header = checkpoint.read_tensors(source / "weights.safetensors")
    del tensors["head.bias"]
    folder.mkdir(parents=True)
    checkpoint.write_tensors(folder / "weights.safetensors", tensors, header)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=rf"{spec.source.name}/weights\.safetensors: lacks tensor 'head\.bias' \(1 in"):
        load(spec, tmp_path)


# --- published weights ------------------------------------------------------------------------------------------------

TEACHER = paper.plan("table2b", "smoke").cell("ann", "sformer-4-256-cifar10").runs[0]
EVALUATED = {"recipe": None, "seed": 0}
HEAD = ("head.bias", "head.weight")


def vit(sha256=SHA256[:8], **update):
    """The smoke-scale ViT, fine-tuned from published weights unless `update` says otherwise."""
    source = Pretrained(name="timm/vit_small_patch16_224.augreg_in21k_ft_in1k", sha256=sha256)
    return TEACHER.model_copy(update={"source": source, **update})


def publish(results, spec, classes, header=None, without=()):
    """Put a ViT for so many classes where the workflow puts published weights; return its tensors."""
    tensors = seeded(spec.network, spec.dataset.model_copy(update={"classes": classes}), seed=1).state_dict()
    tensors = {key: value for key, value in tensors.items() if key not in without}
    header = {"sha256": SHA256, "name": spec.source.name} if header is None else header
    checkpoint.write_tensors(stored(results / "resources" / "weights", spec.source), tensors, header)
    return tensors


@pytest.fixture
def said(caplog):
    """A function that returns what was logged."""
    caplog.set_level(logging.INFO, logger="bkdsnn")
    return lambda: [record.getMessage() for record in caplog.records]


def test_another_number_of_classes_keeps_the_own_last_layer_and_says_so(tmp_path, said):
    spec = vit()
    published = publish(tmp_path, spec, classes=7)
    before, loaded = load(spec, tmp_path)
    assert equal(loaded, before, HEAD) and loaded["head.weight"].shape == (10, 24)
    assert equal(loaded, {**published, **{key: before[key] for key in HEAD}})
    assert said() == ["the last layer starts from random weights, for 10 classes"]


def test_the_last_layer_that_is_kept_is_drawn_from_the_seed(tmp_path):
    spec = vit()
    publish(tmp_path, spec, classes=7)
    first, again, other = (load(spec, tmp_path, seed)[1] for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, other) and equal(first, other, first.keys() - set(HEAD))


def test_the_same_number_of_classes_takes_the_published_last_layer(tmp_path, said):
    spec = vit()
    published = publish(tmp_path, spec, classes=10)
    before, loaded = load(spec, tmp_path)
    assert equal(loaded, published) and not equal(before, published) and said() == []


@pytest.mark.parametrize("classes", [7, 10])
def test_fine_tuning_begins_with_published_weights(tmp_path, said, classes):
    spec = changed(vit(), **STILL)
    published = publish(tmp_path, spec, classes)
    path = run(spec, prepared(tmp_path, spec))
    trained = load_file(path / "weights.safetensors")
    for key in trained.keys() - (set(HEAD) if classes == 7 else set()):
        torch.testing.assert_close(trained[key], published[key], rtol=0, atol=1e-25)
    assert ("the last layer starts from random weights, for 10 classes" in said()) is (classes == 7)
    assert json.loads((path / "metrics.json").read_text())["epochs"] == 1 and "-vit-s-16-ce-t1-" in path.name


def test_evaluation_takes_published_weights_as_they_are(tmp_path, said):
    spec = vit(**EVALUATED)
    published = publish(tmp_path, spec, classes=10)
    assert equal(load_file(run(spec, prepared(tmp_path, spec)) / "weights.safetensors"), published)
    assert not any("last layer" in line for line in said())


def refused(tmp_path, spec, message):
    path = stored(tmp_path / "resources" / "weights", spec.source)
    with pytest.raises(UserError) as caught:
        load(spec, tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_evaluation_with_another_number_of_classes_is_refused(tmp_path):
    publish(tmp_path, vit(), classes=7)
    refused(tmp_path, vit(**EVALUATED), "'head.weight' has shape (7, 24), expected (10, 24)")


@pytest.mark.parametrize("header", [{"sha256": "f" * 64}, {"sha256": "0123abce" * 8}, {}])
def test_weights_made_from_another_file_are_refused(tmp_path, header):
    publish(tmp_path, vit(), 10, header)
    expected = f"made from SHA-256 {header.get('sha256')}, expected 0123abcd; delete it"
    refused(tmp_path, vit(), expected)


def test_where_no_checksum_is_known_any_file_is_taken(tmp_path):
    spec = vit(sha256=None)
    published = publish(tmp_path, spec, 10, {"sha256": "f" * 64})
    assert equal(load(spec, tmp_path)[1], published)


@pytest.mark.parametrize("update", [{}, EVALUATED])
def test_a_missing_tensor_is_named(tmp_path, update):
    spec = vit(**update)
    publish(tmp_path, spec, 10, without={"blocks.0.norm1.weight", "norm.bias"})
    refused(tmp_path, spec, "lacks tensor 'blocks.0.norm1.weight' (2 in all) for ViT")


def test_weights_without_a_last_layer_can_only_be_fine_tuned(tmp_path, said):
    publish(tmp_path, vit(), 10, without=HEAD)
    before, loaded = load(vit(), tmp_path)
    assert equal(loaded, before, HEAD) and said() == ["the last layer starts from random weights, for 10 classes"]
    refused(tmp_path, vit(**EVALUATED), "lacks tensor 'head.bias' (2 in all) for ViT")


def test_weights_of_another_geometry_are_named(tmp_path):
    spec = vit()
    wider = spec.model_copy(update={"network": spec.network.model_copy(update={"dim": 32})})
    publish(tmp_path, wider, 10)
    path = stored(tmp_path / "resources" / "weights", spec.source)
    with pytest.raises(UserError, match=rf"{path.name}: '\S+' has shape \(.*32.*\), expected \(.*24.*\)"):
        load(spec, tmp_path)


def test_absent_weights_are_named(tmp_path):
    refused(tmp_path, vit(), "no such file")
