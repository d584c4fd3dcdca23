"""Calibration: times real training and evaluation steps of every kind of work, on random data of the right shape."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bkdsnn import models
from bkdsnn.budget.calibration import Calibration, Times, spread
from bkdsnn.budget.work import kind
from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.data.loader import Batch, Loader
from bkdsnn.machine import devices
from bkdsnn.runs import checkpoint
from bkdsnn.runs.provenance import packages
from bkdsnn.training.evaluate import evaluate
from bkdsnn.training.execute import EVALUATION_BATCH
from bkdsnn.training.step import Step, build

WARM_UP = 2  # steps that are not timed
LEAST, MOST = 3, 30  # timed steps
LR = 1e-6  # so small that firing rates stay as they are at initialisation


def calibrate(
    specs: Iterable[RunSpec], results: Path, device: torch.device, seconds: float, recompute: bool = False
) -> Path:
    """Time every kind of work among `specs`, about `seconds` each for training (with `recompute`) and for evaluation.

    Returns the file of this device in `results`; times of other kinds that it already has are kept. A kind that does
    not fit into the memory of the GPU is skipped with a warning. Raises `UserError` if none of them fits. The start of
    a run is taken to cost as much CPU time as that of this process: imports, plans, device and optimiser.
    """
    kinds = {kind(spec): spec for spec in specs}
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1, device=device))])  # loads torch's compiler, as every run does
    found = Calibration(
        device=devices.describe(device),
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions=packages(),
        startup_seconds=time.process_time(),
        times={},
    )
    path = None
    for number, (name, spec) in enumerate(kinds.items(), 1):
        try:
            times = time_kind(spec, device, seconds, recompute)
        except torch.cuda.OutOfMemoryError:
            log.warning("%d of %d: %s does not fit into the memory of this GPU", number, len(kinds), name)
            continue
        path = found.model_copy(update={"times": {name: times}}).write(results)
        log.info("%d of %d: %s, %s", number, len(kinds), name, _in_words(times))
    if path is None:
        raise UserError("no kind of run fits into the memory of this GPU; choose another device or a smaller scale")
    return path


def time_kind(spec: RunSpec, device: torch.device, seconds: float, recompute: bool = False) -> Times:
    """Time the training steps of one run, with its recipe's batch size, and its evaluation; weights are random."""
    loader, steps, kept = RandomLoader(spec, device), [], 0
    if spec.recipe:
        teacher = models.build(spec.teacher.network, spec.dataset).to(device) if spec.teacher else None
        network, criterion = build(spec, teacher, device, recompute)
        step = Step(spec, spec.recipe.model_copy(update={"lr": LR}), network, criterion, teacher)
        at = itertools.count()
        steps = timed(lambda: step(loader.batch, checkpoint.Position(step=next(at))), device, seconds)
        kept = checkpoint_bytes(step)
    else:
        network = models.build(spec.network, spec.dataset).to(device)
    images = timed(lambda: evaluate(network, loader), device, seconds)
    return Times(
        step_seconds=statistics.median(steps) if steps else None,
        step_spread=spread(steps),
        image_seconds=statistics.median(images) / loader.test_size,
        image_spread=spread(images),
        parameters=models.count_parameters(network),
        weights_bytes=sum(value.numel() * value.element_size() for value in network.state_dict().values()),
        checkpoint_bytes=kept,
    )


def checkpoint_bytes(step: Step) -> int:
    """Return the size of a checkpoint on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        checkpoint.save(path, "", checkpoint.Position(), *step.state)
        return path.stat().st_size


def timed(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Do `work` for about `seconds`; return how long each time took after the warm-up, on a GPU until it was done."""
    times: list[float] = []
    while len(times) < WARM_UP + LEAST or (len(times) < WARM_UP + MOST and sum(times[WARM_UP:]) < seconds):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return times[WARM_UP:]


class RandomLoader(Loader):
    """One batch of random images or frames in the shape of a run's data, to train on and as the whole test set."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        size = spec.recipe.batch_size if spec.recipe else EVALUATION_BATCH
        super().__init__(size, size, "", size, spec.seed)
        side, runs = spec.dataset.image_size, (spec, spec.teacher or spec)
        shapes = [(run.network.timesteps, 2, side, side) if spec.dataset.events else (3, side, side) for run in runs]
        inputs = {shape: torch.rand(size, *shape, device=device) for shape in shapes}
        labels = torch.arange(size, device=device) % spec.dataset.classes
        self.batch = Batch(inputs[shapes[0]], inputs[shapes[1]], labels)

    def _read_train(self, order: Tensor, steps: range, epoch: int) -> Iterator[Batch]:
        yield self.batch

    def _read_test(self, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.batch.images, self.batch.labels


def _in_words(times: Times) -> str:
    training = f"{1000 * times.step_seconds:.1f} ms a step, " if times.step_seconds else ""
    return f"{training}{1000 * times.image_seconds:.2f} ms a test image"
