"""Top-1 accuracy during training: against the epoch (figure 4), or against the time that training took (figure 3b)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bkdsnn.config.figure_plans import CurvePlan, FigurePlan
from bkdsnn.report.figures import style
from bkdsnn.report.figures.lines import Averaged, averaged, draw_line, from_zero
from bkdsnn.report.figures.run_history import devices_of, read_history
from bkdsnn.runs.schema import Epoch

COLUMNS = 3
GAP = 0.085  # between two numbers beside a panel, in heights of it
LEADER = {"arrowstyle": "-", "linewidth": 0.4, "relpos": (0, 0.5), "shrinkA": 0.5, "shrinkB": 2}
THIN = "\N{THIN SPACE}"
MARKERS = 6  # on a curve, so that they do not hide it
ON_CPU = re.compile(r" CPU, \d+ threads$")  # as `devices.describe` names a CPU
UNITS = (("h", "hours", 3600.0), ("min", "minutes", 60.0), ("s", "seconds", 1.0))


@dataclass(frozen=True)
class AveragedCurve:
    """A curve of a panel, epoch by epoch; each seed has its own clock, which begins with its training."""

    curve: CurvePlan
    seconds: Sequence[float]
    top1: Averaged

    @classmethod
    def of(cls, curve: CurvePlan, histories: Sequence[Sequence[Epoch]]) -> AveragedCurve:
        """Average the histories of the seeds."""
        clocks = (itertools.accumulate(epoch.seconds for epoch in history) for history in histories)
        top1 = averaged([epoch.top1 for epoch in history] for history in histories)
        return cls(curve, averaged(clocks).mean, top1)


class Axis(NamedTuple):
    """The horizontal axis: its label and how many seconds one unit has; None where it counts epochs."""

    label: str
    unit: float | None

    def values(self, line: AveragedCurve) -> list[float]:
        """Return the position of each epoch."""
        return [seconds / self.unit if self.unit else epoch for epoch, seconds in enumerate(line.seconds, 1)]


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from the histories of its runs; return the paths by suffix.

    Raises `UserError` for a run that is missing, was not trained, or whose files are not its own.
    """
    panels = [
        [AveragedCurve.of(curve, [read_history(plan, run, results) for run in curve.runs]) for curve in panel.curves]
        for panel in plan.panels
    ]
    axis, notes = Axis("epoch", None), ["Numbers beside a panel: after the last epoch.", *style.spread(plan)]
    if plan.figure.kind == "accuracy-by-time":
        axis = _time_axis(plan, results, max(line.seconds[-1] for panel in panels for line in panel))
        notes += _devices_note(plan, results)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with style.applied():
        figure = style.sheet(plan, style.TWO_COLUMNS, rows * (1.75 if columns > 2 else 2.3), notes)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel, lines in itertools.zip_longest(grid.flat, plan.panels, panels):
            if panel is None:
                axes.remove()
            else:
                _panel(axes, panel.title, lines, axis)
        for axes in grid[:, 0]:
            axes.set_ylabel("top-1 accuracy (%)")
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel(axis.label)
        style.legend(figure)
        return style.save(figure, plan, list(_records(plan, panels)), folder)


def _panel(axes: Axes, title: str, lines: Sequence[AveragedCurve], axis: Axis) -> None:
    looks = style.looks([line.curve.runs[0] for line in lines])
    every = max(1, max(len(line.seconds) for line in lines) // MARKERS)
    for i, (line, look) in enumerate(zip(lines, looks)):
        first = i * every // len(lines)  # so that the markers of close curves do not cover each other
        label = style.mathtext(line.curve.label)
        draw_line(axes, axis.values(line), line.top1, look, markevery=(first, every), label=label, zorder=3 + i / 10)
    axes.set_title(style.mathtext(title))
    from_zero(axes, integer=axis.unit is None)
    _last_values(axes, [(axis.values(line)[-1], line.top1, look) for line, look in zip(lines, looks)])


def _last_values(axes: Axes, ends: Sequence[tuple[float, Averaged, style.Look]]) -> None:
    """Write the last value of each curve beside the panel, in order of height, with a fine line to the curve's end."""
    low, high = axes.set_ylim(axes.get_ylim())
    ends = sorted(ends, key=lambda end: end[1].mean[-1])
    heights = apart([(top1.mean[-1] - low) / (high - low) for _, top1, _ in ends], GAP)
    for (x, top1, look), height in zip(ends, heights):
        axes.annotate(
            f"{top1.mean[-1]:.2f}" + (f"{THIN}±{THIN}{top1.std[-1]:.2f}" if top1.std else ""),
            xy=(x, top1.mean[-1]),
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center_baseline",
            fontsize=style.SMALL,
            color=look.color,
            arrowprops={**LEADER, "color": look.color},
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return rising heights in 0 .. 1, moved apart to be `gap` or more from each other, as little as goes upwards."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    ceiling = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _time_axis(plan: FigurePlan, results: Path, longest: float) -> Axis:
    """Name the axis for the device, in the largest unit of which the longest curve has two or more."""
    name, plural, unit = next((one for one in UNITS if longest >= 2 * one[2]), UNITS[-1])
    on_cpu = {bool(ON_CPU.search(device)) for device in _devices(plan, results)}
    if on_cpu == {False}:
        return Axis(f"GPU {plural}", unit)
    return Axis(f"training time{' (CPU)' if on_cpu == {True} else ''} ({name})".replace(") (", ", "), unit)


def _devices_note(plan: FigurePlan, results: Path) -> Iterator[str]:
    devices = sorted(_devices(plan, results))
    yield f"Device: {devices[0]}." if len(devices) == 1 else f"Times are of differing devices: {'; '.join(devices)}."


def _devices(plan: FigurePlan, results: Path) -> set[str]:
    return {device for run in plan.runs().values() for device in devices_of(plan, run, results)}


def _records(plan: FigurePlan, panels: Sequence[Sequence[AveragedCurve]]) -> Iterator[dict[str, Any]]:
    for panel, lines in zip(plan.panels, panels):
        for line in lines:
            for i, (seconds, mean) in enumerate(zip(line.seconds, line.top1.mean)):
                yield {
                    "panel": panel.title,
                    "curve": line.curve.label,
                    "epoch": i + 1,
                    "seconds": seconds,
                    "top1_mean": mean,
                    "top1_std": line.top1.std[i] if line.top1.std else None,
                    "n": len(line.curve.runs),
                    "seeds": ";".join(str(run.seed) for run in line.curve.runs),
                }
