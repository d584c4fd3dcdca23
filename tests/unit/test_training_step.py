"""One step of training, made by hand: it is all that the loop does to the weights, with any teacher."""

import pytest
import torch
from safetensors.torch import load_file
from training_example import CPU, changed, losses, run

from bkdsnn import data, models
from bkdsnn.config import Mix, paper
from bkdsnn.runs.checkpoint import Position
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import open_loader
from bkdsnn.training.optim import learning_rate
from bkdsnn.training.step import Step, build
from bkdsnn.training.train import load_teacher

SPEC = changed(paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0], epochs=2)
MIXED = changed(SPEC, mix=Mix(mixup=0.5), label_smoothing=0.1)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    data.prepare(SPEC.dataset, None, results / "data" / f"{SPEC.dataset.name}.json")
    run(SPEC.teacher, results)
    return results


def made(spec, teacher):
    return Step(spec, spec.recipe, *build(spec, teacher, CPU), teacher)


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("spec", [SPEC, MIXED], ids=["plain", "mixed"])
def test_steps_made_by_hand_leave_the_weights_and_losses_of_a_training(results, spec):
    loader, step = (
        open_loader(spec, results, CPU),
        made(spec, load_teacher(spec, RunFolder(results / "runs", spec), CPU)),
    )
    found = []
    for epoch in range(2):
        for settings in step.optimizer.param_groups:
            settings["lr"] = learning_rate(spec.recipe, epoch)
        each = [step(batch, Position(epoch, number)) for number, batch in enumerate(loader.train(epoch))]
        found.append({name: sum(losses[name].item() for losses in each) / len(each) for name in each[0]})
    path = run(spec, results)
    assert equal(load_file(path / "weights.safetensors"), copied(step.student))
    assert found == losses(path)


def test_a_teacher_that_nobody_trained_is_frozen_and_stays_as_it_is(results):
    teacher = models.build(SPEC.teacher.network, SPEC.dataset)
    step, at = made(SPEC, teacher), Position(step=1)
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    before = [copied(part) for part in (teacher, step.student, step.criterion)]
    step(next(open_loader(SPEC, results, CPU).train(0)), at)
    after = [copied(part) for part in (teacher, step.student, step.criterion)]
    assert [equal(one, other) for one, other in zip(before, after)] == [True, False, False]
    assert at == Position(step=1)  # the loop counts


def test_losses_alone_change_no_parameter(results):
    step = made(SPEC, models.build(SPEC.teacher.network, SPEC.dataset))
    before = [parameter.clone() for parameter in (*step.student.parameters(), *step.criterion.parameters())]
    found = step.losses(next(open_loader(SPEC, results, CPU).train(0)), Position())
    assert found.keys() == {"ce", "ld", "bkd"} and all(loss.requires_grad for loss in found.values())
    after = (*step.student.parameters(), *step.criterion.parameters())
    assert all(torch.equal(one, other) and other.grad is None for one, other in zip(before, after, strict=True))
