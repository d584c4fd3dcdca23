"""How the features before the last layer are distributed over the test set (figure 2b), in one pass and exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from bkdsnn.config import RunSpec
from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, parsed
from bkdsnn.core.progress import log
from bkdsnn.models import Network
from bkdsnn.models.finished import finished_network
from bkdsnn.training.execute import open_loader

WIDTH = 0.05  # of the bins of real-valued features


class Histogram(BaseModel):
    """Histogram of the time-averaged feature (Eq. 3) of a run, over spatial positions, channels and test images.

    `discrete`: all entries are multiples of `step` = 1/T, and `counts` has, by k, how many entries are k step.
    Otherwise it has, by k, the number of entries in [k step, (k + 1) step). `zeros` counts entries that are exactly 0.
    """

    run: str
    spec: str
    tap: str
    discrete: bool
    step: float = Field(gt=0)
    entries: int = Field(gt=0)
    zeros: int = Field(ge=0)
    mean: float = Field(allow_inf_nan=False)
    counts: dict[int, int]

    @model_validator(mode="after")
    def _complete(self) -> Histogram:
        if sum(self.counts.values()) != self.entries:
            raise ValueError(f"'counts' add up to {sum(self.counts.values())}, expected 'entries', {self.entries}")
        return self


class Features(BaseModel):
    """The histograms of the networks of one figure."""

    figure: str
    histograms: list[Histogram]


class FeatureCounts:
    """Counts the entries of features, batch by batch; the result does not depend on the batch size.

    For `spiking` networks, exact values are counted as long as all are multiples of 1/T; this holds for sums of spikes
    but not for membrane currents.
    """

    def __init__(self, timesteps: int, spiking: bool) -> None:
        self.timesteps, self.discrete = timesteps, spiking
        self.steps: Counter[int] = Counter()
        self.bins: Counter[int] = Counter()
        self.entries = self.zeros = 0
        self.total = 0.0

    def add(self, feature: Tensor) -> None:
        """Count a feature (T, B, C, h, w)."""
        summed = feature.double().sum(0)
        mean = summed / self.timesteps
        whole = summed.round()
        self.discrete = self.discrete and bool(torch.equal(whole, summed))
        if self.discrete:
            self.steps += _counted(whole)
        self.bins += _counted((mean / WIDTH).floor())
        self.entries += mean.numel()
        self.zeros += int((mean == 0).sum())
        self.total += float(mean.sum())

    def histogram(self, run: RunSpec, tap: str) -> Histogram:
        """Return the counts as the histogram of a run."""
        counts = self.steps if self.discrete else self.bins
        return Histogram(
            run=run.name,
            spec=run.digest,
            tap=tap,
            discrete=self.discrete,
            step=1 / self.timesteps if self.discrete else WIDTH,
            entries=self.entries,
            zeros=self.zeros,
            mean=self.total / self.entries,
            counts=dict(sorted(counts.items())),
        )


def analyse(plan: FigurePlan, results: Path, device: torch.device) -> Path:
    """Measure the networks of a figure and write `<results>/analyses/<figure>.json`; return that path.

    Raises `UserError` for a run that is not finished, and for features that are not finite.
    """
    histograms = [feature_histogram(run, results, device) for run in plan.runs().values()]
    path = features_path(plan, results)
    files.write_json(path, Features(figure=plan.figure.name, histograms=histograms).model_dump())
    return path


def feature_histogram(run: RunSpec, results: Path, device: torch.device) -> Histogram:
    """Return the histogram of a finished run, over its whole test set."""
    network = finished_network(run, results / "runs" / run.name, device)
    batches = (images for images, _ in open_loader(run, results, device).test())
    tally = tallied(network, batches, FeatureCounts(run.network.timesteps, run.network.spiking), run.name)
    made = tally.histogram(run, network.taps[-1])
    log.info("%s: %d entries, %.2f %% zeros", run.name, made.entries, 100 * made.zeros / made.entries)
    return made


@torch.inference_mode()
def tallied(network: Network, batches: Iterable[Tensor], tally: FeatureCounts, name: str) -> FeatureCounts:
    """Add the features of all batches (B, 3, H, W) to the tally, in evaluation mode without autocast; return it."""
    network.eval()
    tap = network.taps[-1]
    for images in batches:
        feature = network(images, (tap,)).features[tap]
        if not feature.isfinite().all():
            raise UserError(f"{name}: feature '{tap}' of a test image is not finite; train with a lower learning rate")
        tally.add(feature)
    return tally


def features_path(plan: FigurePlan, results: Path) -> Path:
    """Path of a figure's histograms; `results` is the folder of its scale."""
    return results / "analyses" / f"{plan.figure.name}.json"


def read_features(plan: FigurePlan, results: Path) -> dict[str, Histogram]:
    """Return the histograms of a figure by run; missing or damaged ones, or those of other runs, raise `UserError`."""
    path = features_path(plan, results)
    again = f"make it with `{plan.command}`"
    if not path.is_file():
        raise UserError(f"{plan.figure.name} shows features of networks: no {path}; {again}")
    found = parsed(Features, path.read_bytes(), str(path), f"; remove it and {again}")
    by_run = {one.run: one for one in found.histograms}
    for name, run in plan.runs().items():
        if name not in by_run or by_run[name].spec != run.digest:
            raise UserError(f"{path}: it was made for other runs and has no histogram of {name}; remove it and {again}")
    return by_run


def _counted(values: Tensor) -> Counter[int]:
    """Count whole numbers, float64 of any shape."""
    keys, counts = values.long().unique(return_counts=True)
    return Counter(dict(zip(keys.tolist(), counts.tolist())))
