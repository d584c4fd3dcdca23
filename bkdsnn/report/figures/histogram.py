"""Histograms of features (figure 2b): those of a student are multiples of 1/T, those of its teacher any number."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bkdsnn.analysis.feature_histograms import WIDTH, Histogram, read_features
from bkdsnn.config.figure_plans import FigurePlan, PanelPlan
from bkdsnn.report.figures import style

TAIL = 0.001  # share of the entries at each end that may lie beyond the axis
MARGIN = 0.03  # on both sides, of its length


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure, one column a panel and one row a curve, from the analysis of its networks; return the paths.

    Raises `UserError` if the analysis is missing, damaged or of other runs.
    """
    found = read_features(plan, results)
    rows = max(len(panel.curves) for panel in plan.panels)
    width = style.ONE_COLUMN if len(plan.panels) == 1 else style.TWO_COLUMNS
    with style.applied():
        figure = style.sheet(plan, width, 1.25 * rows + 0.3, ["Shares are of all places, channels and test images."])
        grid = figure.subplots(rows, len(plan.panels), squeeze=False)
        for column, panel in zip(grid.T, plan.panels):
            _draw_panel(list(column), panel, [found[curve.runs[0].name] for curve in panel.curves])
        return style.save(figure, plan, list(_records(plan, found)), folder)


def _draw_panel(column: Sequence[Axes], panel: PanelPlan, histograms: Sequence[Histogram]) -> None:
    """Draw the curves one above the other, on equal axes."""
    looks = style.looks([curve.runs[0] for curve in panel.curves])
    low, high = (end(ends) for end, ends in zip((min, max), zip(*map(reach, histograms))))
    low, high = low - (margin := MARGIN * (high - low) or WIDTH), high + margin
    least = min(min(_shares(histogram).values()) for histogram in histograms)
    for axes, curve, histogram, look in zip(column, panel.curves, histograms, looks):
        _draw(axes, histogram, look)
        axes.set(yscale="log", ylabel="share (%)", ylim=(least / 2, 400), xlim=(low, high))
        text = "\n".join([style.mathtext(curve.label), *_facts(histogram, low, high)])
        axes.tick_params(labelbottom=axes is column[len(histograms) - 1])
        axes.text(0.99, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=6.5)
    for axes in column[len(panel.curves) :]:
        axes.remove()
    column[0].set_title(style.mathtext(panel.title))
    column[len(panel.curves) - 1].set_xlabel("feature before the last layer")


def _draw(axes: Axes, histogram: Histogram, look: style.Look) -> None:
    """Draw lines where values are discrete, a filled outline where they are not."""
    shares = _shares(histogram)
    places = [k * histogram.step for k in shares]
    if histogram.discrete:
        axes.vlines(places, 0, list(shares.values()), color=look.color, linewidth=1.2)
        axes.plot(places, list(shares.values()), color=look.color, linestyle="none", marker="o", markersize=2.2)
    else:
        axes.bar(places, list(shares.values()), histogram.step, align="edge", color=look.color, alpha=0.75, linewidth=0)


def _facts(histogram: Histogram, low: float, high: float) -> list[str]:
    beyond = sum(share for k, share in _shares(histogram).items() if not low <= k * histogram.step < high)
    return [
        f"{'multiples' if histogram.discrete else 'bins'} of {histogram.step:g}",
        f"{100 * histogram.zeros / histogram.entries:.1f} % are 0",
        *([f"{beyond:.2g} % beyond the axis"] if beyond else []),
    ]


def reach(histogram: Histogram) -> tuple[float, float]:
    """Return the values between which all entries lie, but for a share `TAIL` at each end."""
    below = list(itertools.accumulate(histogram.counts.values()))
    steps = list(histogram.counts)
    first = bisect.bisect_right(below, TAIL * histogram.entries)
    last = bisect.bisect_left(below, (1 - TAIL) * histogram.entries)
    return steps[first] * histogram.step, (steps[last] + (not histogram.discrete)) * histogram.step


def _shares(histogram: Histogram) -> dict[int, float]:
    return {k: 100 * count / histogram.entries for k, count in histogram.counts.items()}


def _records(plan: FigurePlan, found: dict[str, Histogram]) -> Iterator[dict[str, Any]]:
    """`from` and `to` bound a bin, [from, to), and are equal where they are one value."""
    for panel in plan.panels:
        for curve in panel.curves:
            histogram = found[curve.runs[0].name]
            for k, count in histogram.counts.items():
                yield {
                    "panel": panel.title,
                    "curve": curve.label,
                    "discrete": str(histogram.discrete).lower(),
                    "from": round(k * histogram.step, 12),
                    "to": round((k if histogram.discrete else k + 1) * histogram.step, 12),
                    "count": count,
                    "entries": histogram.entries,
                    "zeros": histogram.zeros,
                    "mean": histogram.mean,
                }
