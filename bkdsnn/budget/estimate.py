"""Time and disk of the runs that a call would make. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bkdsnn.budget import work
from bkdsnn.budget.evidence import Bytes, Evidence, Pace, Source
from bkdsnn.budget.past_runs import epochs_done
from bkdsnn.budget.work import Size, Work
from bkdsnn.config import Dataset, Pretrained, RunSpec

Z90 = 1.6449  # a normal variable lies within so many standard deviations in 90 of 100 cases
RECORDS = 20_000  # bytes of the JSON files of a run, about
PREDICTION = 3  # bytes of one test image in predictions.npz: class and correctness


class Span(NamedTuple):
    """An estimate with the ends of its 90 % interval."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: float, sigma: float) -> Span:
        """Return the log-normal span around a median; `sigma` is the standard deviation of the logarithm."""
        factor = math.exp(Z90 * sigma)
        return cls(seconds, seconds / factor, seconds * factor)

    @classmethod
    def total(cls, spans: Iterable[Span]) -> Span:
        """Add spans end by end, as if all of them erred alike: a machine that is slow is slow for every run."""
        listed = list(spans)
        return cls(*(sum(span[i] for span in listed) for i in range(3)))


class Wanted(NamedTuple):
    """A run that the workflow would make, by the rule that makes it."""

    rule: str
    name: str
    spec: RunSpec
    work: Work


class Priced(NamedTuple):
    """A run with the size of its data and what it costs; None where nothing is known."""

    run: Wanted
    size: Size | None
    seconds: Span | None
    source: Source | None
    bytes: Bytes | None


@dataclass(frozen=True)
class Budget:
    """What a call of the workflow would cost.

    `prepared_bytes` are embedded data, frames of events, and published weights; `free_bytes` is what the disk has left;
    `at_once` is how many runs write
    checkpoints at the same time; `others` counts the jobs that are no runs, which cost time that is not counted.
    """

    runs: tuple[Priced, ...]
    device: str | None
    prepared_bytes: float
    free_bytes: float
    at_once: int
    others: int

    @property
    def unknown(self) -> list[Priced]:
        """The runs whose time nothing tells."""
        return [run for run in self.runs if run.seconds is None]

    @property
    def seconds(self) -> Span:
        """Device-seconds of all runs that can be estimated."""
        return Span.total(run.seconds for run in self.runs if run.seconds)

    @property
    def longest(self) -> Priced | None:
        """The run that takes longest."""
        return max((run for run in self.runs if run.seconds), key=lambda run: run.seconds or (0,), default=None)

    @property
    def left_bytes(self) -> float:
        """What stays on the disk, without the runs of unknown size."""
        return self.prepared_bytes + sum(run.bytes.weights for run in self.runs if run.bytes) + RECORDS * len(self.runs)

    @property
    def peak_bytes(self) -> float:
        """What is needed while it runs: a checkpoint is written beside the one that it replaces."""
        largest = max((run.bytes.checkpoint for run in self.runs if run.bytes), default=0)
        return self.left_bytes + 2 * self.at_once * largest


def price(wanted: Iterable[Wanted], evidence: Evidence, results: Path) -> tuple[Priced, ...]:
    """Price every run; `results` is one scale's folder. What an interrupted run has behind it is not counted again."""
    sizes = _remembered(lambda dataset: work.size(dataset, results))
    startup = evidence.startup
    return tuple(_priced(run, evidence, sizes(run.spec.dataset), startup, results) for run in wanted)


def prepared(datasets: Iterable[Dataset], frames: Iterable[tuple[Dataset, int]], results: Path) -> float:
    """Return the bytes of embedded images and of frames, uint16 (N, T, 2, S, S), that are yet to be made."""
    images = [(dataset, 3) for dataset in datasets if dataset.digits]
    clips = [(dataset, 4 * timesteps) for dataset, timesteps in frames]
    total = 0
    for dataset, pixel_bytes in images + clips:
        if size := work.size(dataset, results):
            total += sum(size) * pixel_bytes * dataset.image_size**2
    return total


def published(stems: Iterable[str], runs: Mapping[str, RunSpec], evidence: Evidence) -> float:
    """Return the bytes of the published weights of these names, as far as the size of a run that has them is known."""
    users = {spec.source.stem: spec for spec in runs.values() if isinstance(spec.source, Pretrained)}
    found = (evidence.bytes(users[stem], Work.of(users[stem])) for stem in stems if stem in users)
    return sum(one.weights for one in found if one)


def _priced(run: Wanted, evidence: Evidence, size: Size | None, startup: float, results: Path) -> Priced:
    pace, disk = evidence.pace(run.spec, run.work, size), evidence.bytes(run.spec, run.work)
    if disk and size:
        disk = disk._replace(weights=disk.weights + PREDICTION * size.test)
    if pace is None:
        return Priced(run, size, None, None, disk)
    return Priced(run, size, Span.of(_seconds(run, pace, startup, results), pace.sigma), pace.source, disk)


def _seconds(run: Wanted, pace: Pace, startup: float, results: Path) -> float:
    if run.spec.recipe is None:
        return pace.seconds
    epochs = run.spec.recipe.total_epochs - epochs_done(run.name, results)
    return startup + max(epochs, 0) * pace.seconds


def _remembered(find: Callable[[Dataset], Size | None]) -> Callable[[Dataset], Size | None]:
    """Return `find` that looks once for each name of a dataset."""
    known: dict[str, Size | None] = {}

    def look(dataset: Dataset) -> Size | None:
        if dataset.name not in known:
            known[dataset.name] = find(dataset)
        return known[dataset.name]

    return look
