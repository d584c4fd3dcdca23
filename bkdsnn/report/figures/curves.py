"""Top-1 accuracy against the epoch (figure 4), the time that training took (figure 3b), or the number of time-steps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bkdsnn.config.figure_plans import CurvePlan, FigurePlan
from bkdsnn.core.statistics import sample_std
from bkdsnn.report.figures import style
from bkdsnn.report.figures.lines import Averaged, draw_line, from_zero
from bkdsnn.report.figures.run_history import devices_of, read_history, read_timesteps

COLUMNS = 3
GAP = 0.085  # between two numbers beside a panel, in heights of it
LEADER = {"arrowstyle": "-", "linewidth": 0.4, "relpos": (0, 0.5), "shrinkA": 0.5, "shrinkB": 2}
THIN = "\N{THIN SPACE}"
MARKERS = 6  # on a curve, so that they do not hide it
ON_CPU = re.compile(r" CPU, \d+ threads$")  # as `devices.describe` names a CPU
UNITS = (("h", "hours", 3600.0), ("min", "minutes", 60.0), ("s", "seconds", 1.0))


class Point(NamedTuple):
    """The seeds of a curve at one `place`, such as after an epoch, in words of the CSV; `std` is None for one seed."""

    place: Mapping[str, float]
    mean: float
    std: float | None


@dataclass(frozen=True)
class AveragedCurve:
    """A curve of a panel."""

    curve: CurvePlan
    points: list[Point]

    @property
    def top1(self) -> Averaged:
        """The accuracies of the points."""
        stds = [point.std for point in self.points if point.std is not None]
        return Averaged([point.mean for point in self.points], stds or None)


class Axis(NamedTuple):
    """The horizontal axis: its label, its quantity in the places of points, and its unit; None where it counts."""

    label: str
    quantity: str
    unit: float | None = None

    def values(self, line: AveragedCurve) -> list[float]:
        """Return the position of each point."""
        return [point.place[self.quantity] / (self.unit or 1) for point in line.points]


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from the records of its runs; return the paths by suffix.

    Raises `UserError` for a run that is missing, was not trained, or whose files are not its own.
    """
    points = _by_timestep if plan.figure.kind == "accuracy-by-timestep" else _by_epoch
    panels = [[AveragedCurve(curve, points(plan, curve, results)) for curve in panel.curves] for panel in plan.panels]
    axis, notes = Axis("epoch", "epoch"), ["Numbers beside a panel: after the last epoch.", *style.spread(plan)]
    if plan.figure.kind == "accuracy-by-timestep":
        axis, notes[0] = Axis("time-steps", "timestep"), "Numbers beside a panel: after all time-steps."
    elif plan.figure.kind == "accuracy-by-time":
        axis = _time_axis(plan, results, max(line.points[-1].place["seconds"] for panel in panels for line in panel))
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


def _by_epoch(plan: FigurePlan, curve: CurvePlan, results: Path) -> list[Point]:
    """Average over seeds, epoch by epoch; each seed has its own clock, which begins with its training."""
    histories = [read_history(plan, run, results) for run in curve.runs]
    clocks = [itertools.accumulate(epoch.seconds for epoch in history) for history in histories]
    return [
        _averaged([one.top1 for one in epochs], epoch=epochs[0].epoch, seconds=fmean(seconds))
        for epochs, seconds in zip(zip(*histories), zip(*clocks))
    ]


def _by_timestep(plan: FigurePlan, curve: CurvePlan, results: Path) -> list[Point]:
    """Average over seeds, from one time-step to all of them."""
    seeds = [read_timesteps(plan, run, results) for run in curve.runs]
    return [_averaged(top1, timestep=t) for t, top1 in enumerate(zip(*seeds), 1)]


def _averaged(top1: Sequence[float], **place: float) -> Point:
    return Point(place, fmean(top1), sample_std(top1))


def _panel(axes: Axes, title: str, lines: Sequence[AveragedCurve], axis: Axis) -> None:
    looks = style.looks([line.curve.runs[0] for line in lines])
    every = max(1, max(len(line.points) for line in lines) // MARKERS)
    for i, (line, look) in enumerate(zip(lines, looks)):
        x = axis.values(line)
        first = min(i * every // len(lines), len(x) - 1)  # so that the markers of close curves do not cover each other
        options = {"markevery": (first, every), "label": style.mathtext(line.curve.label), "zorder": 3 + i / 10}
        draw_line(axes, x, line.top1, look, **options)
    axes.set_title(style.mathtext(title))
    from_zero(axes, integer=axis.unit is None)
    _last_values(axes, [(axis.values(line)[-1], line.points[-1], look) for line, look in zip(lines, looks)])


def _last_values(axes: Axes, ends: Sequence[tuple[float, Point, style.Look]]) -> None:
    """Write the last value of each curve beside the panel, in order of height, with a fine line to the curve's end."""
    low, high = axes.set_ylim(axes.get_ylim())
    ends = sorted(ends, key=lambda end: end[1].mean)
    heights = apart([(point.mean - low) / (high - low) for _, point, _ in ends], GAP)
    for (x, point, look), height in zip(ends, heights):
        axes.annotate(
            f"{point.mean:.2f}" + ("" if point.std is None else f"{THIN}±{THIN}{point.std:.2f}"),
            xy=(x, point.mean),
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
        return Axis(f"GPU {plural}", "seconds", unit)
    return Axis(f"training time{' (CPU)' if on_cpu == {True} else ''} ({name})".replace(") (", ", "), "seconds", unit)


def _devices_note(plan: FigurePlan, results: Path) -> Iterator[str]:
    devices = sorted(_devices(plan, results))
    yield f"Device: {devices[0]}." if len(devices) == 1 else f"Times are of differing devices: {'; '.join(devices)}."


def _devices(plan: FigurePlan, results: Path) -> set[str]:
    return {device for run in plan.runs().values() for device in devices_of(plan, run, results)}


def _records(plan: FigurePlan, panels: Sequence[Sequence[AveragedCurve]]) -> Iterator[dict[str, Any]]:
    for panel, lines in zip(plan.panels, panels):
        for line in lines:
            for point in line.points:
                yield {
                    "panel": panel.title,
                    "curve": line.curve.label,
                    **point.place,
                    "top1_mean": point.mean,
                    "top1_std": point.std,
                    "n": len(line.curve.runs),
                    "seeds": ";".join(str(run.seed) for run in line.curve.runs),
                }
