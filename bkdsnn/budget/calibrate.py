"""Calibration: times real training and evaluation steps of every kind of work, on random data of the right shape."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bkdsnn import models
from bkdsnn.budget.calibration import Calibration, Times
from bkdsnn.budget.work import kind
from bkdsnn.config import Recipe, RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.data.loader import Batch, Loader
from bkdsnn.machine import devices, gpus
from bkdsnn.runs import checkpoint
from bkdsnn.runs.provenance import packages
from bkdsnn.training.evaluate import evaluate
from bkdsnn.training.execute import EVALUATION_BATCH
from bkdsnn.training.step import Step, build

WARM_UP = 2  # steps that are not timed
LEAST, MOST = 3, 30  # timed steps
LR = 1e-6  # so small that firing rates stay as they are at initialisation


def calibrate(
    specs: Iterable[RunSpec], scale: str, results: Path, device: torch.device, seconds: float, recompute: bool = False
) -> Path:
    """Time every kind of work among `specs`, about `seconds` each for training (with `recompute`) and for evaluation.

    Returns the file of this device in `results`; times of other kinds that it already has are kept. A kind that does
    not fit into the memory of the GPU is skipped with a warning. Raises `UserError` if none of them fits.
    """
    kinds = {kind(spec): spec for spec in specs}
    found = Calibration(
        device=devices.describe(device),
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions=packages(),
        startup_seconds=startup(next(iter(kinds.values())), scale, device),
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
    loader = RandomLoader(spec, device, seconds)
    if spec.recipe:
        network, kept = train(spec, spec.recipe, loader, device, recompute)
    else:
        network, kept = models.build(spec.network, spec.dataset).to(device), 0
    evaluate(network, loader)
    steps, images = loader.trained.times(), loader.tested.times()
    return Times(
        step_seconds=statistics.median(steps) if steps else None,
        step_spread=_spread(steps),
        image_seconds=statistics.median(images) / loader.batch,
        image_spread=_spread(images),
        parameters=models.count_parameters(network),
        weights_bytes=sum(value.numel() * value.element_size() for value in network.state_dict().values()),
        checkpoint_bytes=kept,
    )


def train(
    spec: RunSpec, recipe: Recipe, loader: Loader, device: torch.device, recompute: bool
) -> tuple[models.Network, int]:
    """Train for one epoch, with an untrained teacher; return the student and the size of a checkpoint in bytes."""
    teacher = models.build(spec.teacher.network, spec.dataset).to(device) if spec.teacher else None
    student, criterion = build(spec, teacher, device, recompute)
    step, at = Step(spec, recipe.model_copy(update={"lr": LR}), student, criterion, teacher), checkpoint.Position()
    for batch in loader.train(at.epoch):
        step(batch, at)
        at.step += 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        checkpoint.save(path, "", at, *step.state)
        return student, path.stat().st_size


def startup(spec: RunSpec, scale: str, device: torch.device) -> float:
    """Time the start of a training process: imports, finding the run, choosing the device, making an optimiser."""
    code = (
        "import torch, bkdsnn.cli, bkdsnn.training.execute;"
        "from bkdsnn.config import paper; from bkdsnn.machine import devices;"
        f"paper.find_run({spec.name!r}, {scale!r}); one = torch.zeros(1, device=devices.choose({str(device)!r}, 1));"
        "torch.optim.Adam([torch.nn.Parameter(one)])"  # loads torch's compiler, which takes a second
    )
    began = time.perf_counter()
    gpus.run([sys.executable, "-c", code])
    return time.perf_counter() - began


class Marks:
    """Time stamps between steps; on a GPU each one first waits until the step is done."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self._moments: list[float] = []

    def steps(self) -> Iterator[int]:
        """Count steps until enough are timed, taking the time before each and after the last."""
        for step in range(WARM_UP + MOST):
            self._mark()
            if step >= WARM_UP + LEAST and self._moments[-1] - self._moments[WARM_UP] > self._seconds:
                return
            yield step
        self._mark()

    def times(self) -> list[float]:
        """Return the duration in seconds of every step after the warm-up."""
        timed = self._moments[WARM_UP:]
        return [after - before for before, after in itertools.pairwise(timed)]

    def _mark(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._moments.append(time.perf_counter())


class RandomLoader(Loader):
    """Random images or frames in the shape of a run's data; every step gets the same batch."""

    def __init__(self, spec: RunSpec, device: torch.device, seconds: float) -> None:
        self.batch = spec.recipe.batch_size if spec.recipe else EVALUATION_BATCH
        count = self.batch * (WARM_UP + MOST)
        super().__init__(count, count, "", self.batch, spec.seed)
        self.trained, self.tested = Marks(device, seconds), Marks(device, seconds)
        self._images = self._random(spec, spec.network.timesteps, device)
        teacher_timesteps = spec.teacher.network.timesteps if spec.teacher else spec.network.timesteps
        same = not spec.dataset.events or teacher_timesteps == spec.network.timesteps
        self._teacher_input = self._images if same else self._random(spec, teacher_timesteps, device)
        self._labels = torch.arange(self.batch, device=device) % spec.dataset.classes

    def _random(self, spec: RunSpec, timesteps: int, device: torch.device) -> Tensor:
        side = spec.dataset.image_size
        shape = (timesteps, 2, side, side) if spec.dataset.events else (3, side, side)
        return torch.rand(self.batch, *shape, device=device)

    def _read_train(self, order: Tensor, steps: range, epoch: int) -> Iterator[Batch]:
        for _ in self.trained.steps():
            yield Batch(self._images, self._teacher_input, self._labels)

    def _read_test(self, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in self.tested.steps():
            yield self._images, self._labels


def _spread(times: list[float]) -> float:
    return statistics.stdev(map(math.log, times)) if len(times) > 1 else 0.0


def _in_words(times: Times) -> str:
    training = f"{1000 * times.step_seconds:.1f} ms a step, " if times.step_seconds else ""
    return f"{training}{1000 * times.image_seconds:.2f} ms a test image"
