"""Measured speed of this machine, from finished runs and calibrations, applied to runs to come. Free of torch."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from bkdsnn.budget.calibration import Calibration, folder, is_cpu, spread
from bkdsnn.budget.work import Size, kind
from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.runs import schema
from bkdsnn.runs.schema import Metrics, Provenance

Source = Literal["measured", "calibrated"]

# Extra uncertainty (log scale) added to the measured spread: of whole runs, because the machine's load changes; of
# calibrated steps, because seconds on random data in memory are extrapolated to hours on files.
MODEL: Mapping[Source, float] = {"measured": 0.15, "calibrated": 0.25}
STATES = {"sgd": 1, "adam": 2, "adamw": 2, "lamb": 2}  # values that an optimiser keeps per parameter


class Pace(NamedTuple):
    """Seconds of one epoch with its evaluation, or of a whole run that only evaluates; `sigma` of their logarithm."""

    seconds: float
    sigma: float
    source: Source


class Bytes(NamedTuple):
    """Disk space of one run: its final weights, and a checkpoint during training."""

    weights: int
    checkpoint: int


class PastRun(NamedTuple):
    """One finished run. `overhead` are the seconds that its process spent outside training, None if unknown."""

    kind: str
    device: str
    when: float
    epochs: int
    seconds: float
    overhead: float | None
    weights_bytes: int


class Evidence:
    """Measurements on one device: that of the newest calibration or, if there is none, of the newest finished run.

    `device` is the user's setting: `auto`, or a device that limits the measurements to CPUs or to GPUs.
    """

    def __init__(self, calibrations: Iterable[tuple[float, Calibration]], runs: Iterable[PastRun], device: str) -> None:
        suited = [(when, one) for when, one in calibrations if _suits(one.device, device)]
        finished = [run for run in runs if _suits(run.device, device)]
        self.calibration = max(suited, key=lambda pair: pair[0])[1] if suited else None
        newest = max(finished, key=lambda run: run.when).device if finished else None
        self.device = self.calibration.device if self.calibration else newest
        self._times = self.calibration.times if self.calibration else {}
        self._runs = [run for run in finished if run.device == self.device]

    @classmethod
    def gather(
        cls, results: Path, scale: str, kinds: Collection[str], runs: Mapping[str, RunSpec], device: str
    ) -> Evidence:
        """Read the calibrations in `results`, and those of the `runs` that are finished and of one of these `kinds`.

        Raises `UserError` for a damaged calibration.
        """
        calibrations = [(path.stat().st_mtime, Calibration.read(path)) for path in folder(results).glob("*.json")]
        begun = [spec for name, spec in runs.items() if (results / scale / "runs" / name).is_dir()]
        finished = (read_past(spec, results / scale) for spec in begun if kind(spec) in kinds)
        return cls(calibrations, filter(None, finished), device)

    @functools.cached_property
    def startup(self) -> float:
        """Seconds that a run spends outside its epochs: from finished runs, else from calibration, else 0."""
        measured = [run.overhead for run in self._runs if run.epochs and run.overhead is not None]
        if measured:
            return statistics.median(measured)
        return self.calibration.startup_seconds if self.calibration else 0.0

    def pace(self, spec: RunSpec, size: Size | None) -> Pace | None:
        """Return the speed of a run: from finished runs of its kind, else from calibration, else None."""
        same = [run for run in self._runs if run.kind == kind(spec)]
        trained = [run.seconds / run.epochs for run in same if run.epochs and run.seconds > 0]
        if seconds := trained or [run.overhead for run in same if not run.epochs and run.overhead]:
            sigma = math.hypot(spread(seconds), MODEL["measured"])
            return Pace(statistics.median(seconds), sigma, "measured")
        times = self._times.get(kind(spec))
        if times is None or size is None:
            return None
        steps = size.train // spec.recipe.batch_size if spec.recipe else 0
        training = steps * times.step_seconds if times.step_seconds else self.startup
        sigma = math.hypot(times.step_spread if spec.recipe else times.image_spread, MODEL["calibrated"])
        return Pace(training + size.test * times.image_seconds, sigma, "calibrated")

    def bytes(self, spec: RunSpec) -> Bytes | None:
        """Return the disk space that a run needs; None if no run of its kind was finished or calibrated here.

        For finished runs the checkpoint's size is that of student and optimiser, without the criterion.
        """
        if times := self._times.get(kind(spec)):
            return Bytes(times.weights_bytes, times.checkpoint_bytes)
        built = [run.weights_bytes for run in self._runs if run.kind == kind(spec)]
        values = 1 + STATES[spec.recipe.optimizer] if spec.recipe else 0
        return Bytes(built[0], built[0] * values) if built else None


def read_past(spec: RunSpec, results: Path) -> PastRun | None:
    """Read time and size of a finished run in `results` (the folder of its scale); None if unfinished or damaged.

    Damaged files are ignored here; the tables, which read the same files, report them.
    """
    folder = results / "runs" / spec.name
    try:
        metrics = schema.read(Metrics, folder / "metrics.json")
        return PastRun(
            kind=kind(spec),
            device=schema.read(Provenance, folder / "provenance.json").device,
            when=(folder / "metrics.json").stat().st_mtime,
            epochs=metrics.epochs,
            seconds=metrics.seconds,
            overhead=_overhead(results / "benchmarks" / "runs" / f"{spec.name}.tsv", metrics.seconds),
            weights_bytes=(folder / "weights.safetensors").stat().st_size,
        )
    except (OSError, UserError):
        return None


def epochs_done(spec: RunSpec, results: Path) -> int:
    """Return how many epochs of an interrupted run are done; 0 without a checkpoint."""
    folder = results / "runs" / spec.name
    files = (folder / "checkpoints" / "last.safetensors", history := folder / "history.jsonl")
    return len(history.read_text().splitlines()) if all(file.exists() for file in files) else 0


def _overhead(benchmark: Path, seconds: float) -> float | None:
    """Return the job's wall time, as measured by Snakemake, minus the training; None if the run was resumed."""
    try:
        wall = float(benchmark.read_text().splitlines()[1].split("\t")[0])
    except (OSError, IndexError, ValueError):
        return None
    return wall - seconds if wall > seconds else None


def _suits(described: str, setting: str) -> bool:
    return setting == "auto" or is_cpu(described) == (setting == "cpu")
