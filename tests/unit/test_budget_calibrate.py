"""Calibration for real, of the smallest runs: on images, on recordings, of a conversion."""

import logging

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from bkdsnn import models
from bkdsnn.budget.calibrate import LEAST, calibrate, timed
from bkdsnn.budget.calibration import Calibration
from bkdsnn.budget.work import kind
from bkdsnn.config import paper
from bkdsnn.core.progress import log
from bkdsnn.machine import devices

CPU = torch.device("cpu")
PLAN = paper.plan("table2a", "smoke")
STUDENT = PLAN.cell("bkdsnn", "resnet20-cifar10").runs[0]
CONVERTED = PLAN.cell("qcfs", "resnet20-cifar10").runs[0]
RUNS = paper.all_runs("smoke").values()
CLIPS = next(spec for spec in RUNS if spec.dataset.events and spec.teacher)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    path = calibrate([STUDENT, CONVERTED, CLIPS], results, CPU, 1e-6)
    assert [entry for entry in results.rglob("*") if entry.is_file()] == [path]
    return Calibration.read(path)


@pytest.mark.parametrize("spec", [STUDENT, CLIPS], ids=["images", "recordings"])
def test_steps_of_a_training_are_timed(found, spec):
    times = found.times[kind(spec)]
    assert 0 < times.step_seconds < 60 and 0 < times.image_seconds < 60
    parameters = models.count_parameters(models.build(spec.network, spec.dataset))
    assert times.parameters == parameters and times.weights_bytes >= 4 * parameters
    assert times.checkpoint_bytes > 2 * 4 * parameters  # with the optimiser, and what is trained beside the student


def kept_bytes(results, **options):
    """What the backward passes of a calibration find kept for them, all steps together."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.nbytes)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        calibrate([STUDENT], results, CPU, 1e-6, **options)
    return sum(sizes)


def test_recomputation_is_timed_as_training_does_it(tmp_path):
    assert kept_bytes(tmp_path, recompute=True) < 0.5 * kept_bytes(tmp_path)


def test_a_conversion_has_no_training_steps(found):
    times = found.times[kind(CONVERTED)]
    assert times.step_seconds is None and times.image_seconds > 0 and times.checkpoint_bytes == 0


def test_the_file_names_device_and_versions(found):
    assert found.device == devices.describe(CPU) and found.versions["torch"] == torch.__version__.partition("+")[0]
    assert found.startup_seconds > 0.1
    assert log.level != logging.WARNING


def test_the_warm_up_is_not_timed():
    done = []
    assert len(timed(lambda: done.append(1), CPU, 1e-9)) == LEAST
    assert len(done) - LEAST == 2
