"""How fast this machine is: finished runs, calibration, and what follows for runs of a kind. Free of torch."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from bkdsnn.budget.calibration import Calibration, Times, folder, is_cpu
from bkdsnn.budget.past_runs import PastRun, checkpoint_bytes, read_finished
from bkdsnn.budget.work import Size, Work
from bkdsnn.config import RunSpec

Source = Literal["measured", "calibrated", "related"]

# Standard deviations of the logarithm that no measurement shows: of whole runs on a machine whose load changes; of
# steps timed for seconds that shall stand for hours, with random data in memory in place of files; of another loss
# and teacher around the same network.
MODEL: Mapping[Source, float] = {"measured": 0.15, "calibrated": 0.25, "related": 0.6}


class Pace(NamedTuple):
    """Seconds of one epoch with its evaluation, or of a whole run that only evaluates; `sigma` of their logarithm."""

    seconds: float
    sigma: float
    source: Source


class Bytes(NamedTuple):
    """Disk of one run: the weights that it leaves, and a checkpoint while it trains."""

    weights: int
    checkpoint: int


class Evidence:
    """What is known of one device: the one of the newest calibration or, without any, of the newest finished run.

    `device` is the setting: `auto`, or one that confines the evidence to CPUs or to GPUs.
    """

    def __init__(self, calibrations: Iterable[tuple[float, Calibration]], runs: Iterable[PastRun], device: str) -> None:
        suited = [(when, one) for when, one in calibrations if _suits(one.device, device)]
        self.calibration = max(suited, key=lambda pair: pair[0])[1] if suited else None
        finished = [run for run in runs if _suits(run.device, device)]
        newest = max(finished, key=lambda run: run.when).device if finished else None
        self.device = self.calibration.device if self.calibration else newest
        self._runs: dict[str, list[PastRun]] = {}
        self._kin: dict[str, list[PastRun]] = {}
        for run in (run for run in finished if run.device == self.device):
            self._runs.setdefault(run.work.kind, []).append(run)
            self._kin.setdefault(run.work.kin, []).append(run)

    @classmethod
    def gather(
        cls, results: Path, scale: str, kin: Collection[str], runs: Mapping[str, RunSpec], device: str
    ) -> Evidence:
        """Read the calibrations below `results` and, of `runs` by name, the finished ones that are of that `kin`.

        Raises `UserError` for a damaged calibration.
        """
        files = sorted(folder(results).glob("*.json"))
        begun = ((name, spec) for name, spec in runs.items() if (results / scale / "runs" / name).is_dir())
        related = ((name, spec, made) for name, spec in begun if (made := Work.of(spec)).kin in kin)
        finished = (read_finished(*one, results / scale) for one in related)
        return cls(
            [(path.stat().st_mtime, Calibration.read(path)) for path in files], [run for run in finished if run], device
        )

    @functools.cached_property
    def startup(self) -> float:
        """Seconds of a run beyond its epochs: of finished runs, else as calibrated, else 0."""
        runs = [run for same in self._runs.values() for run in same if run.epochs]
        measured = [run.overhead for run in runs if run.overhead is not None]
        if measured:
            return statistics.median(measured)
        return self.calibration.startup_seconds if self.calibration else 0.0

    def pace(self, spec: RunSpec, work: Work, size: Size | None) -> Pace | None:
        """Return how fast a run goes, from the best evidence that there is; None where there is none."""
        if pace := _measured(self._runs.get(work.kind, []), "measured"):
            return pace
        times = self.calibration.times if self.calibration else {}
        if size and work.kind in times and (pace := _calibrated(spec, size, times[work.kind], self.startup)):
            return pace
        return self._related(spec, work, size, times)

    def bytes(self, spec: RunSpec, work: Work) -> Bytes | None:
        """Return the disk that a run needs; None where no network like its has been built here."""
        times = self.calibration.times if self.calibration else {}
        if work.kind in times:
            return Bytes(times[work.kind].weights_bytes, times[work.kind].checkpoint_bytes)
        built = [run.weights_bytes for run in self._kin.get(work.kin, [])]
        built += [one.weights_bytes for one in times.values() if one.kin == work.kin]
        return Bytes(built[0], checkpoint_bytes(spec, built[0])) if built else None

    def _related(self, spec: RunSpec, work: Work, size: Size | None, times: Mapping[str, Times]) -> Pace | None:
        """Return the median pace of the same network under other losses and teachers."""
        if spec.recipe is None:
            return None
        if pace := _measured(self._kin.get(work.kin, []), "related"):
            return pace
        kindred = [one for one in times.values() if one.kin == work.kin]
        paces = [pace for one in kindred if size and (pace := _calibrated(spec, size, one, self.startup))]
        return _pace([pace.seconds for pace in paces], MODEL["related"], "related") if paces else None


def _measured(runs: list[PastRun], source: Source) -> Pace | None:
    """Return the pace of finished runs of a kind."""
    trained = [run.seconds / run.epochs for run in runs if run.epochs and run.seconds > 0]
    evaluated = [run.overhead for run in runs if not run.epochs and run.overhead]
    seconds = trained or evaluated
    return _pace(seconds, MODEL[source], source) if seconds else None


def _calibrated(spec: RunSpec, size: Size, times: Times, startup: float) -> Pace | None:
    """Return the pace that follows from the times of single steps; None where these have no training and it has."""
    evaluation = size.test * times.image_seconds
    if spec.recipe is None:
        return Pace(startup + evaluation, math.hypot(times.image_spread, MODEL["calibrated"]), "calibrated")
    if times.step_seconds is None:
        return None
    training = size.train // spec.recipe.batch_size * times.step_seconds
    return Pace(training + evaluation, math.hypot(times.step_spread, MODEL["calibrated"]), "calibrated")


def _pace(seconds: list[float], model: float, source: Source) -> Pace:
    spread = statistics.stdev(map(math.log, seconds)) if len(seconds) > 1 else 0.0
    return Pace(statistics.median(seconds), math.hypot(spread, model), source)


def _suits(described: str, setting: str) -> bool:
    return setting == "auto" or is_cpu(described) == (setting == "cpu")
