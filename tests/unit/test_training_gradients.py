"""The measured correction of Eq. A3: its numbers, that it changes nothing, that it survives a cut anywhere."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from training_example import CPU, assert_equal, changed, run, run_in_slices

from bkdsnn import data, models
from bkdsnn.config import paper
from bkdsnn.core import streams
from bkdsnn.core.errors import Interrupted
from bkdsnn.distill.correction import Correction, cosine, gradient, rms
from bkdsnn.distill.restoration import blur_mask
from bkdsnn.machine.devices import choose
from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training import step, train
from bkdsnn.training.execute import execute, open_loader

CELLS = {
    "resnet": ("table2a", "resnet20-cifar10"),
    "neurons behind F": ("table2a", "resnet19-cifar10"),  # in the head; its task loss is TET
    "transformer": ("table2b", "sformer-2-384-cifar10"),
}
VARIANTS = [(network, {}) for network in CELLS] + [("transformer", {"swapped": True})]


def spec_of(method, network="resnet", bkd=None, **recipe):
    """The smoke-scale run of a method, two epochs long, with changes to its recipe and to its term `bkd`."""
    table, column = CELLS[network]
    spec = changed(paper.plan(table, "smoke").cell(method, column).runs[0], **{"epochs": 2, **recipe})
    terms = tuple(term.model_copy(update=bkd if term.method == "bkd" and bkd else {}) for term in spec.distill)
    return spec.model_copy(update={"distill": terms})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Results folder with data and trained teachers, two ResNets and a ViT."""
    results = tmp_path_factory.mktemp("results")
    teachers = [spec_of("bkdsnn", network).teacher for network in CELLS]
    data.prepare(teachers[0].dataset, None, results / "data" / f"{teachers[0].dataset.name}.json")
    for teacher in teachers:
        run(teacher, results)
    return results


@pytest.fixture
def results(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "results")


def history(path):
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def gradients(path):
    return [record.get("gradients") for record in history(path)]


# --- the numbers


def first_step(spec, results):
    """F (T, B, C, h, w) of the first step, the weights of the last layer, the teacher's map, mask and labels."""
    folder = RunFolder(results / "runs", spec)
    teacher = train.load_teacher(spec, folder, CPU)
    student, _ = step.build(spec, teacher, CPU)
    batch = next(open_loader(spec, results, CPU).train(0))
    with torch.no_grad():
        own, theirs = student(batch.images, student.taps), teacher(batch.images, teacher.taps)
    feature, target = own.features[student.taps[-1]], theirs.features[teacher.taps[-1]].mean(0)
    bkd = next(term for term in spec.distill if term.method == "bkd")
    mask = blur_mask(target.shape, bkd.blur_ratio, bkd.mask, streams.generator(spec.seed, "blur", 0, 0))
    tensors = (feature, student.fc.weight, own.logits.mean(0), target, mask, batch.labels)
    return bkd.weight, [tensor.detach().double().numpy() for tensor in tensors]


def by_hand(spec, results):
    """dL_CE/dF of a linear head on the mean over places, and dL_BKD/dF without f_adp and G, in NumPy."""
    weight, (feature, head, logits, target, mask, labels) = first_step(spec, results)
    steps, batch, _, height, width = feature.shape
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    error = exponents / exponents.sum(1, keepdims=True) - np.eye(logits.shape[1])[labels.astype(int)]
    task = (error @ head)[:, :, None, None] / (batch * steps * height * width)
    if spec.distill[0].swapped:
        bkd = -2 * weight * (target * mask - feature.mean(0)) / (batch * steps)
    else:
        bkd = 2 * weight * (feature.mean(0) * mask - target) * mask / (batch * steps)
    return np.broadcast_to(task, feature.shape), np.broadcast_to(bkd, feature.shape)


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_recorded_is_the_gradient_of_each_loss_worked_by_hand(results, swapped):
    spec = spec_of("bkdsnn", bkd={"restoration": False, "swapped": swapped, "blur_ratio": 0.4}, epochs=1)
    task, bkd = by_hand(spec, results)
    (found,) = gradients(run(spec, results))
    expected = {"task": np.sqrt(np.mean(task**2)), "bkd": np.sqrt(np.mean(bkd**2))}
    expected["cosine"] = np.mean(task * bkd) / (expected["task"] * expected["bkd"])
    assert 0 < abs(expected["cosine"]) < 1 and min(expected["task"], expected["bkd"]) > 0
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_measured_with_its_weight(results):
    plain, doubled = (spec_of("bkdsnn", bkd={"weight": weight}, epochs=1) for weight in (1e-3, 2e-3))
    (one,), (other,) = (gradients(run(spec, results)) for spec in (plain, doubled))
    assert other["bkd"] == pytest.approx(2 * one["bkd"], rel=1e-5) and other["task"] == one["task"]


@pytest.mark.parametrize(("network", "bkd"), VARIANTS)
def test_every_epoch_of_a_run_with_bkd_has_its_own(results, network, bkd):
    found = gradients(run(spec_of("bkdsnn", network, bkd=bkd), results))
    assert len(found) == 2 and found[0] != found[1]
    for record in found:
        assert list(record) == ["task", "bkd", "cosine"]
        assert record["task"] > 0 and record["bkd"] > 0 and 0 < abs(record["cosine"]) < 1


@pytest.mark.parametrize("method", ["sew-resnet", "kdsnn"])
def test_a_run_without_bkd_records_none(results, method):
    assert gradients(run(spec_of(method), results)) == [None, None]
    assert all("gradients" not in record for record in history(run(spec_of(method), results)))


# --- nothing else changes


@pytest.mark.parametrize(("network", "bkd"), VARIANTS)
def test_measuring_changes_no_bit_of_what_is_trained(results, tmp_path, monkeypatch, network, bkd):
    spec = spec_of("bkdsnn", network, bkd=bkd)
    again = shutil.copytree(results, tmp_path / "again")
    measured = run(spec, results)
    monkeypatch.setattr(Correction, "measure", lambda *_: None)
    unmeasured = run(spec, again)
    assert None not in gradients(measured) and gradients(unmeasured) == [None, None]
    assert_equal(measured, unmeasured)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("network", CELLS)
def test_measuring_changes_nothing_in_half_precision_on_a_gpu(results, tmp_path, monkeypatch, network):
    spec, cuda = spec_of("bkdsnn", network, precision="fp16"), choose("cuda", 1)
    again = shutil.copytree(results, tmp_path / "again")
    execute(spec, results, results, cuda, None)
    measured = RunFolder(results / "runs", spec).path
    monkeypatch.setattr(Correction, "measure", lambda *_: None)
    execute(spec, again, again, cuda, None)
    assert all(0 < record["task"] < 1 and 0 < record["bkd"] < 1 for record in gradients(measured))
    assert_equal(measured, RunFolder(again / "runs", spec).path)


def test_the_graph_of_a_step_and_its_feature_are_let_go(results):
    spec = spec_of("bkdsnn")
    student = models.build(spec.network, spec.dataset)
    correction, at = Correction(spec, student), checkpoint.Position()
    images = torch.zeros(2, 3, 12, 12)
    with correction.watching(at):
        outputs = student(images)
    feature = correction.feature
    assert feature.shape[:2] == (2 * spec.network.timesteps, outputs.pooled.shape[-1]) and feature.requires_grad
    losses = {"ce": outputs.logits.square().sum(), "bkd": outputs.pooled.sum()}
    correction.measure(at, losses, torch.amp.GradScaler("cpu", enabled=False))
    assert correction.feature is None and at.gradients["bkd"] > 0
    assert all(parameter.grad is None for parameter in student.parameters())
    at.step = 1
    with correction.watching(at):
        student(images)
    assert correction.feature is None and not student.layer(student.taps[-1])._forward_hooks


# --- cuts


@pytest.mark.parametrize("network", CELLS)
def test_a_cut_after_any_step_keeps_the_measurement(results, tmp_path, network):
    spec = spec_of("bkdsnn", network)
    again = shutil.copytree(results, tmp_path / "again")
    whole, (sliced, slices) = run(spec, results), run_in_slices(spec, again)
    assert slices == 2 * 4 + 1  # after each of four steps, the first and the last too
    assert None not in gradients(whole)
    assert gradients(whole) == gradients(sliced)
    assert_equal(whole, sliced)


def test_a_checkpoint_without_the_measurement_is_still_read(results, tmp_path):
    spec = spec_of("bkdsnn")
    again = shutil.copytree(results, tmp_path / "again")
    whole, folder = run(spec, results), RunFolder(again / "runs", spec)
    with pytest.raises(Interrupted):
        run(spec, again, minutes=1e-9)
    tensors, header = checkpoint.read_tensors(folder.checkpoint)
    assert header["position"]["step"] == 1 and header["position"].pop("gradients") == gradients(whole)[0]
    checkpoint.write_tensors(folder.checkpoint, tensors, header)
    assert gradients(run(spec, again)) == [None, gradients(whole)[1]]
    assert_equal(whole, folder.path)


# --- half precision, and gradients that are zero


def half():
    """A feature as autocast makes them."""
    return torch.ones(4, dtype=torch.float16, requires_grad=True)


def test_a_gradient_below_half_precision_is_not_lost():
    feature = half()
    loss = (feature.float() * 1e-9).sum()
    assert gradient(loss, feature, 1.0).abs().max() == 0
    found = gradient(loss, feature, 2.0**16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((4,), 1e-9), rtol=1e-3, atol=0)


def test_a_scale_at_which_a_gradient_overflows_is_lowered():
    feature = half()
    found = gradient((feature.float() * 3).sum(), feature, 2.0**16)
    assert torch.equal(found, torch.full((4,), 3.0))


def test_a_gradient_that_is_infinite_at_any_scale_comes_back_as_it_is():
    feature = half()
    assert gradient((feature.float() * math.inf).sum(), feature, 2.0**16).isinf().all()


def test_root_mean_square_and_cosine():
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([[4.0, -3.0], [-8.0, 6.0]])
    assert rms(one) == pytest.approx(math.sqrt(12.5))
    assert cosine(one, other[0]) == pytest.approx(0, abs=1e-7)
    assert cosine(other[0], other[1]) == pytest.approx(-1) and cosine(other[0], other[1]) >= -1
    assert cosine(1e-12 * one, 1e-15 * torch.tensor([1.0, 0.0])) == pytest.approx(0.6)


def test_the_cosine_with_a_zero_gradient_is_zero():
    assert cosine(torch.zeros(3), torch.ones(3)) == cosine(torch.ones(3), torch.zeros(3)) == 0.0


def test_a_weight_of_zero_is_measured_as_zero(results):
    (found,) = gradients(run(spec_of("bkdsnn", bkd={"weight": 0.0}, epochs=1), results))
    assert found["task"] > 0 and found["bkd"] == found["cosine"] == 0.0
