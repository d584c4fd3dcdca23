"""Series of numbers averaged over seeds, and lines with the band of their deviation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bkdsnn.core.statistics import sample_std
from bkdsnn.report.figures.style import Look


class Averaged(NamedTuple):
    """Means and sample standard deviations over seeds, in the order of the series; `std` is None for one seed."""

    mean: Sequence[float]
    std: Sequence[float] | None


def averaged(seeds: Iterable[Iterable[float]]) -> Averaged:
    """Average series of equal length, one per seed, entry by entry."""
    entries = list(zip(*seeds))
    alone = any(len(entry) == 1 for entry in entries)
    return Averaged([fmean(entry) for entry in entries], None if alone else [sample_std(one) or 0.0 for one in entries])


def draw_line(axes: Axes, x: Sequence[float], line: Averaged, look: Look, **options: Any) -> None:
    """Draw the means, and between one deviation below and above them a band."""
    axes.plot(x, line.mean, **look._asdict(), **options)
    if line.std:
        low, high = np.subtract(line.mean, line.std), np.add(line.mean, line.std)
        axes.fill_between(x, low, high, color=look.color, alpha=0.2, linewidth=0)


def from_zero(axes: Axes, integer: bool = True) -> None:
    """Begin the horizontal axis at 0, with at most seven labels, which for epochs are whole numbers."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=integer))
