"""Estimated time and disk space of runs that are not finished yet. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bkdsnn.budget.evidence import Bytes, Evidence, Source, epochs_done
from bkdsnn.budget.work import Size, size
from bkdsnn.config import Dataset, RunSpec

Z90 = 1.6449  # 90 % of a normal distribution lie within so many standard deviations
RECORDS = 20_000  # approximate bytes of a run's JSON files
PREDICTION = 3  # bytes of one test image in predictions.npz: class and correctness


class Span(NamedTuple):
    """An estimate with the ends of its 90 % interval."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: float, sigma: float) -> Span:
        """Return the log-normal interval around the median `seconds`; `sigma` is the logarithm's standard deviation."""
        factor = math.exp(Z90 * sigma)
        return cls(seconds, seconds / factor, seconds * factor)

    @classmethod
    def total(cls, spans: Iterable[Span]) -> Span:
        """Add intervals end by end, assuming fully correlated errors: a slow machine is slow for every run."""
        listed = list(spans)
        return cls(*(sum(span[i] for span in listed) for i in range(3)))


class Priced(NamedTuple):
    """A run with the size of its data and its estimated time and disk space; None for unknown values."""

    spec: RunSpec
    size: Size | None
    seconds: Span | None
    source: Source | None
    bytes: Bytes | None


@dataclass(frozen=True)
class Budget:
    """The estimated cost of a call of the workflow.

    `prepared_bytes` is the size of embedded images and event frames that have not been made yet, `free_bytes` the free
    disk space, `at_once` the number of runs that may write checkpoints at the same time.
    """

    runs: tuple[Priced, ...]
    device: str | None
    prepared_bytes: float
    free_bytes: float
    at_once: int

    @property
    def unknown(self) -> list[Priced]:
        """The runs whose time cannot be estimated."""
        return [run for run in self.runs if run.seconds is None]

    @property
    def seconds(self) -> Span:
        """Device-seconds of all runs that can be estimated."""
        return Span.total(run.seconds for run in self.runs if run.seconds)

    @property
    def left_bytes(self) -> float:
        """Disk space of everything that remains at the end, not counting runs of unknown size."""
        return self.prepared_bytes + sum(run.bytes.weights for run in self.runs if run.bytes) + RECORDS * len(self.runs)

    @property
    def peak_bytes(self) -> float:
        """Disk space needed meanwhile: a checkpoint is written beside the one that it replaces."""
        largest = max((run.bytes.checkpoint for run in self.runs if run.bytes), default=0)
        return self.left_bytes + 2 * self.at_once * largest


def price(spec: RunSpec, evidence: Evidence, results: Path) -> Priced:
    """Estimate the remaining cost of a run, without epochs already done; `results` is the folder of its scale."""
    amount = size(spec.dataset, results)
    pace, disk = evidence.pace(spec, amount), evidence.bytes(spec)
    if disk and amount:
        disk = disk._replace(weights=disk.weights + PREDICTION * amount.test)
    if pace is None:
        return Priced(spec, amount, None, None, disk)
    left = max(spec.recipe.total_epochs - epochs_done(spec, results), 0) if spec.recipe else 1
    seconds = left * pace.seconds + (evidence.startup if spec.recipe else 0)
    return Priced(spec, amount, Span.of(seconds, pace.sigma), pace.source, disk)


def prepared(specs: Iterable[RunSpec], results: Path) -> int:
    """Return the bytes of embedded images and event frames, uint16 (N, T, 2, S, S), that have not been made yet."""
    wanted: dict[str, tuple[Dataset, int]] = {}
    for spec in specs:
        clips = {one.network.timesteps for one in (spec, spec.teacher) if one} if spec.dataset.events else set()
        wanted |= {f"{spec.dataset.name}-t{steps}.json": (spec.dataset, 4 * steps) for steps in clips}
        if spec.dataset.digits:
            wanted[f"{spec.dataset.name}.json"] = spec.dataset, 3
    missing = [each for name, each in wanted.items() if not (results / "data" / name).is_file()]
    return sum(sum(size(data, results) or ()) * pixel_bytes * data.image_size**2 for data, pixel_bytes in missing)
