"""Several processes for one run, on a CPU: what they compute is what one process computes on the same global batch."""

import json
import shutil

import numpy as np
import pytest
import torch
from processes import PROCESSES, together
from pydantic import ValidationError
from torch import nn
from training_example import CPU, assert_equal, changed, losses, run

from bkdsnn import data
from bkdsnn.config import Mix, paper
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.data.loader import Batch
from bkdsnn.machine.distributed import ALONE, join
from bkdsnn.models.metaspikeformer import PaddedNorm
from bkdsnn.models.synced import synchronise
from bkdsnn.models.transformer import StillNorm
from bkdsnn.runs.checkpoint import Position
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.evaluate import evaluate
from bkdsnn.training.execute import execute, open_loader
from bkdsnn.training.step import Step, build
from bkdsnn.training.train import load_teacher

CNN = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0]
TRANSFORMER = paper.plan("table2b", "smoke").cell("bkdsnn", "sformer-4-384-cifar10").runs[0]
EVENTS = paper.plan("table3b", "smoke").cell("bkdsnn", "sformer-2-256-t4").runs[0]


def assert_close(found, expected, relative):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=relative, atol=1e-10), name


def norm_of(kind):
    torch.manual_seed(0)
    norm = StillNorm(3, 4) if kind is StillNorm else kind(3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.double()


def normalised(norm, x):
    """Output, gradients of input, weight and bias, and running statistics after two steps of one norm."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        norm.zero_grad()
        x.grad = None
        out = norm(x)
        (out.sin() * torch.arange(out[0].numel()).view_as(out[0])).sum().div(len(x)).backward()
    state = {key: value.clone() for key, value in norm.state_dict().items() if key not in ("weight", "bias")}
    return {"out": out.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, **state}


def norms(group, kind):
    x = torch.randn(6, 3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 1
    norm = norm_of(kind)
    synchronise(norm, group)
    ours, whole = normalised(norm, group.rows(x)), normalised(norm_of(kind), x)
    expected = {**whole, "out": group.rows(whole["out"]), "x": group.rows(whole["x"]) * group.size}
    ours |= {key: group.mean(ours[key]) for key in ("weight", "bias")}
    assert_close(ours, expected, 1e-10)
    norm.eval()
    return norm(x).tolist()  # tensors do not outlive their process


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, StillNorm, PaddedNorm])
def test_synchronised_norms_are_those_of_the_global_batch(kind):
    first, second = together(norms, kind)
    assert first == second


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Data and teachers."""
    results = tmp_path_factory.mktemp("prepared") / "smoke"
    for spec in (CNN, TRANSFORMER, EVENTS):
        manifest = results / "data" / f"{spec.dataset.name}.json"
        data.prepare(spec.dataset, None, manifest)
        if spec.dataset.events:
            from bkdsnn.data.events.frames import convert

            for timesteps in {spec.network.timesteps, spec.teacher.network.timesteps}:
                convert(spec.dataset, manifest, timesteps)
        run(spec.teacher, results)
    return results


def of_two(spec, **recipe):
    return changed(spec, processes=PROCESSES, **recipe)


def gradients(group, spec, results):
    """Losses and gradients of one step in float64, on this group's rows of the second batch of the first epoch."""
    teacher = load_teacher(spec, RunFolder(results / "runs", spec), CPU)
    student, criterion = build(spec, teacher, CPU)
    recipe = spec.recipe if group.size > 1 else spec.recipe.model_copy(update={"sync_batch_norm": False})
    step = Step(spec, recipe, student.double(), criterion.double(), teacher.double(), group)
    batch = list(open_loader(spec, results, CPU, group).train(0))[1]
    images, shown, labels = map(group.rows, step.mixing(batch, 0, 1))
    labels = labels.double() if labels.is_floating_point() else labels
    found = step.losses(Batch(images.double(), shown.double(), labels), Position(step=1))
    sum(found.values()).backward()
    made = {f"loss {name}": group.mean(value.detach()) for name, value in found.items()}
    for part in (student, criterion):
        made |= {name: value.grad for name, value in part.named_parameters() if value.grad is not None}
    return made


def compare_gradients(group, spec, results):
    ours, whole = gradients(group, spec, results), gradients(ALONE, spec, results)
    assert_close(ours, whole, 1e-8)
    return len(whole)


SYNCED = {"sync_batch_norm": True, "batch_size": 20}
GRADIENTS = {
    "cnn with mixup": of_two(CNN, mix=Mix(mixup=0.5), **SYNCED),
    "transformer": of_two(TRANSFORMER, **SYNCED),
    "events": of_two(EVENTS, sync_batch_norm=True, batch_size=10),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_are_those_of_one_process(case, prepared):
    spec = GRADIENTS[case]
    assert any(term.method == "bkd" for term in spec.distill)
    first, second = together(compare_gradients, spec, prepared)
    assert first == second > 10


def predictions(group, spec, results, size):
    loader = open_loader(changed(spec, batch_size=size), results, CPU, group)
    student, _ = build(spec, load_teacher(spec, RunFolder(results / "runs", spec), CPU), CPU)
    for buffer in student.buffers() if not group.main else ():
        buffer.zero_()  # the statistics of the first process count
    return evaluate(student, loader, group)


@pytest.mark.parametrize("size", [3, 7, 50])
def test_evaluation_sees_every_test_image_once(prepared, size):
    alone = predictions(ALONE, CNN, prepared, size)
    assert len(alone.correct) == CNN.dataset.digits.test
    for found in together(predictions, CNN, prepared, size):
        assert np.array_equal(found.predicted, alone.predicted) and np.array_equal(found.correct, alone.correct)


def trained_in(group, spec, results, minutes=None, recompute=False):
    try:
        execute(spec, results, results / "resources", CPU, minutes, group, recompute)
    except Interrupted:
        return True
    return False


def test_a_run_of_two_processes_is_resumed_bit_by_bit(prepared, tmp_path):
    spec = of_two(CNN, batch_size=20, epochs=2)
    whole, sliced = (shutil.copytree(prepared, tmp_path / name) for name in ("whole", "sliced"))
    assert together(trained_in, spec, whole) == [False, False]
    slices = 0
    while together(trained_in, spec, sliced, 1e-9) == [True, True]:
        slices += 1
    assert slices == 4
    one, other = (RunFolder(results / "runs", spec) for results in (whole, sliced))
    assert_equal(one.path, other.path)
    assert [attempt.event for attempt in other.attempts() or []] == []
    metrics = json.loads((one.path / "metrics.json").read_text())
    assert metrics["test_images"] == spec.dataset.digits.test and len(losses(one.path)) == 2
    assert together(trained_in, spec, whole) == [False, False]  # finished


def test_recomputation_leaves_the_same_bits_under_synchronised_norms(prepared, tmp_path):
    spec = of_two(TRANSFORMER, sync_batch_norm=True, batch_size=20, epochs=1)
    plain, lean = (shutil.copytree(prepared, tmp_path / name) for name in ("plain", "lean"))
    together(trained_in, spec, plain)
    together(trained_in, spec, lean, None, True)
    assert_equal(*(RunFolder(results / "runs", spec).path for results in (plain, lean)))


def test_losses_are_those_of_one_process(prepared, tmp_path):
    spec = of_two(CNN, sync_batch_norm=True, batch_size=20, epochs=1)
    both, alone = (shutil.copytree(prepared, tmp_path / name) for name in ("both", "alone"))
    together(trained_in, spec, both)
    single = changed(CNN, batch_size=20, epochs=1)
    expected, found = losses(run(single, alone)), losses(RunFolder(both / "runs", spec).path)
    assert found[0].keys() == expected[0].keys()
    assert all(found[0][name] == pytest.approx(expected[0][name], rel=1e-3) for name in expected[0])


def test_what_asks_for_other_processes_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"3 processes were started, the recipe's 'processes' is 2"):
        join(2, CPU, {"WORLD_SIZE": "3"})
    with pytest.raises(UserError, match=r"2 processes were started, the recipe's 'processes' is 1"):
        join(1, CPU, {"WORLD_SIZE": "2"})
    assert join(1, CPU, {}) is ALONE


def test_specs_that_do_not_fit_several_processes_are_refused():
    with pytest.raises(ValidationError, match="'batch_size' is 20, no multiple of 'processes', 3"):
        type(CNN.recipe)(**{**CNN.recipe.model_dump(), "batch_size": 20, "processes": 3})
    with pytest.raises(ValidationError, match="'sync_batch_norm' is on, but 'processes' is 1"):
        type(CNN.recipe)(**{**CNN.recipe.model_dump(), "sync_batch_norm": True})


def test_one_process_is_no_part_of_a_name():
    assert "processes" not in str(CNN.identity()) and "sync_batch_norm" not in str(CNN.identity())
    assert of_two(CNN).name != CNN.name and of_two(CNN).identity()["recipe"]["processes"] == 2
