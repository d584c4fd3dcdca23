"""The meter of the training loop: sums that no guard period changes, and a loss that is not finite."""

import math
import time

import pytest
import torch

from bkdsnn.config import paper
from bkdsnn.core.errors import UserError
from bkdsnn.runs.checkpoint import Position
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training import meter as meters
from bkdsnn.training.meter import Meter

LOSSES = torch.rand(23, 2, generator=torch.Generator().manual_seed(0))


SPEC = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0]


def meter(tmp_path, at=None):
    return Meter(RunFolder(tmp_path, SPEC), at or Position())


def count(meter, losses):
    for pair in losses:
        meter.at.step += 1  # as the loop does
        meter.add(dict(zip(("ce", "bkd"), pair)))


def in_turn(losses):
    """Python's own sums, in order."""
    totals = [0.0, 0.0]
    for pair in losses.tolist():
        totals = [total + value for total, value in zip(totals, pair)]
    return dict(zip(("ce", "bkd"), totals))


@pytest.mark.parametrize("guard", [1, 4, 23, 50])
def test_sums_are_the_same_bits_whenever_losses_are_read(tmp_path, monkeypatch, guard):
    monkeypatch.setattr(meters, "LOSSES_PER_TRANSFER", guard)
    found = meter(tmp_path)
    count(found, LOSSES)
    found.flush()
    assert found.at.totals == in_turn(LOSSES) and found.at.step == 23


def test_a_cut_anywhere_changes_no_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "LOSSES_PER_TRANSFER", 4)
    for cut in range(24):
        before = meter(tmp_path)
        count(before, LOSSES[:cut])
        before.flush()
        after = meter(tmp_path, Position(step=before.at.step, totals=dict(before.at.totals)))
        count(after, LOSSES[cut:])
        after.flush()
        assert after.at.totals == in_turn(LOSSES) and after.at.step == 23


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_loss_that_is_not_finite_is_named_at_most_two_guard_periods_later(tmp_path, monkeypatch, value):
    monkeypatch.setattr(meters, "LOSSES_PER_TRANSFER", 4)
    for bad in range(16):
        losses = LOSSES.clone()
        losses[bad:, 1] = value
        found = meter(tmp_path)
        with pytest.raises(UserError, match=rf"loss 'bkd' is {value} at epoch 1, step {bad + 1} \(no checkpoint"):
            count(found, losses)
        assert found.at.step - bad <= 2 * 4
        found = meter(tmp_path)
        with pytest.raises(UserError, match=rf"step {bad + 1} "):
            count(found, losses[: bad + 1])
            found.flush()


def test_the_record_of_an_epoch_has_its_learning_rate_and_the_time_of_its_evaluation(tmp_path):
    recipe = SPEC.recipe.model_copy(update={"epochs": 10, "warmup_epochs": 0, "lr": 0.4, "min_lr": 0.0})
    found = meter(tmp_path, Position(epoch=5, gradients={"task": 1.0, "bkd": 2.0, "cosine": 0.5}))
    count(found, LOSSES)
    found.flush()
    time.sleep(0.05)
    record = found.record(50.0, recipe, torch.device("cpu"))
    assert (record.epoch, record.lr, record.top1) == (6, pytest.approx(0.2), 50.0)
    assert record.evaluation_seconds >= 0.05
    assert record.seconds - record.evaluation_seconds == pytest.approx(found.at.epoch_seconds)
    assert record.losses == {name: total / 23 for name, total in in_turn(LOSSES).items()}
    assert record.gradients.bkd == 2.0


def test_gradients_that_are_not_finite_end_the_run(tmp_path):
    gradients = {"task": math.inf, "bkd": 2.0, "cosine": 0.5}
    found = meter(tmp_path, Position(step=1, totals={"ce": 1.0}, gradients=gradients))
    found.flush()
    with pytest.raises(UserError, match=r"gradients in epoch 1 are \{'task': inf.*lower the learning rate"):
        found.record(50.0, SPEC.recipe, torch.device("cpu"))
