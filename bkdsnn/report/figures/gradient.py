"""The surrogate gradient and what L_BKD adds to it (figure A1): the term delta of Eq. A3, measured along training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bkdsnn.config import Neuron, RunSpec
from bkdsnn.config.figure_plans import CurvePlan, FigurePlan, PanelPlan
from bkdsnn.core.errors import UserError
from bkdsnn.models.firing.loop import surrogate_derivative
from bkdsnn.report.figures import style
from bkdsnn.report.figures.lines import Averaged, averaged, draw_line, from_zero
from bkdsnn.report.figures.run_history import read_history
from bkdsnn.runs.schema import Gradients

PAPER = Neuron(kind="if", surrogate="sigmoid", alpha=4.0)  # Eq. A2
V = np.linspace(-2, 2, 401)  # v - v_threshold


class Series(NamedTuple):
    """Numbers of one line, averaged over `n` runs."""

    curve: str
    quantity: str
    x: Sequence[float]
    values: Averaged
    n: int


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from the histories of its runs; return the paths by suffix.

    Raises `UserError` for runs without L_BKD, and for histories of a version that did not measure gradients.
    """
    measured = [[_measured(plan, curve, results) for curve in panel.curves] for panel in plan.panels]
    surrogates = [_surrogates(panel.curves[0].runs[0]) for panel in plan.panels]
    places: list[Any] = [
        [f"surrogate {i}", f"{name} {i}"] for i in range(len(plan.panels)) for name in ("rms", "cosine")
    ]
    with style.applied():
        notes = [
            "F: the student's feature before the last layer. Gradients are of the first step of each epoch.",
            *style.spread(plan),
        ]
        figure = style.sheet(plan, style.TWO_COLUMNS, 2.4 * len(plan.panels), notes)
        axes = figure.subplot_mosaic(places, height_ratios=[2, 1] * len(plan.panels))
        for i, (panel, lines, series) in enumerate(zip(plan.panels, surrogates, measured)):
            _draw_surrogates(axes[f"surrogate {i}"], lines)
            _draw_measured(axes[f"rms {i}"], axes[f"cosine {i}"], panel, series)
        records = (
            {"panel": panel.title, **record}
            for panel, lines, series in zip(plan.panels, surrogates, measured)
            for one in (*lines, *(line for curve in series for line in curve))
            for record in _records(one)
        )
        return style.save(figure, plan, list(records), folder)


def surrogate(neuron: Neuron) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the surrogate of the Heaviside step and its derivative, both (401,), at `V`.

    The derivative is what training uses. It is even and of area 1, so its integral passes 0 at 1/2.
    """
    derivative = surrogate_derivative(torch.from_numpy(V.copy()), neuron).numpy()
    steps = np.diff(V) * (derivative[1:] + derivative[:-1]) / 2
    integral = np.concatenate([[0.0], np.cumsum(steps)])
    return integral - integral[len(V) // 2] + 0.5, derivative


def _surrogates(run: RunSpec) -> list[Series]:
    """The step, the paper's surrogate, and the run's own where it is another."""
    used = {_name(neuron): neuron for neuron in (PAPER, getattr(run.network, "neuron", None)) if neuron}
    values = {("Heaviside", "step"): np.heaviside(V, 1.0)}
    for name, neuron in used.items():
        values |= zip(((name, "surrogate"), (name, "derivative")), surrogate(neuron))
    return [Series(*names, V.tolist(), Averaged(line.tolist(), None), 1) for names, line in values.items()]


def _name(neuron: Neuron) -> str:
    return f"{neuron.surrogate}, alpha = {neuron.alpha:g}"


def _measured(plan: FigurePlan, curve: CurvePlan, results: Path) -> list[Series]:
    """Both root mean squares and the cosine of a curve, epoch by epoch, averaged over seeds."""
    histories = [_gradients(plan, run, results) for run in curve.runs]
    epochs, n = range(1, len(histories[0]) + 1), len(curve.runs)
    return [
        Series(curve.label, quantity, epochs, averaged([getattr(one, quantity) for one in own] for own in histories), n)
        for quantity in ("bkd", "task", "cosine")
    ]


def _gradients(plan: FigurePlan, run: RunSpec, results: Path) -> list[Gradients]:
    if not any(term.method == "bkd" for term in run.distill):
        raise UserError(
            f"{plan.figure.name} shows run {run.name}, whose method is '{run.method}'; expected one with L_BKD, "
            f"such as row 'bkd': mend config/figures/{plan.figure.name}.yaml"
        )
    measured = [epoch.gradients for epoch in read_history(plan, run, results)]
    if None in measured:
        folder = results / "runs" / run.name
        raise UserError(
            f"{folder / 'history.jsonl'}: no 'gradients' in epoch {measured.index(None) + 1}: the run is of an earlier "
            f"version, which did not measure them; remove {folder} and make it again with `{plan.command}`"
        )
    return [one for one in measured if one]


def _draw_surrogates(axes: Axes, lines: Sequence[Series]) -> None:
    step, *others = lines
    axes.plot(step.x, step.values.mean, color=style.BLACK, linewidth=0.8, label="step Θ")
    colors = dict(zip(dict.fromkeys(line.curve for line in others), (style.VERMILION, style.BLUE)))
    for line in others:
        derivative = line.quantity == "derivative"
        where = " (paper)" if line.curve == _name(PAPER) else " (run)"
        axes.plot(
            line.x,
            line.values.mean,
            color=colors[line.curve],
            linestyle=(0, (4, 1.5)) if derivative else "solid",
            linewidth=0.9 if line.curve == _name(PAPER) else 1.7,
            label="its derivative" if derivative else style.mathtext(line.curve + where * (len(colors) > 1)),
        )
    axes.set(xlabel="$v - v_{\\mathrm{th}}$", ylim=(-0.05, 1.62), xlim=(V[0], V[-1]), title="surrogate gradient")
    axes.set_yticks(np.linspace(0, 1, 5))
    axes.legend(loc="upper left", ncols=2, columnspacing=1)


def _draw_measured(axes: Axes, below: Axes, panel: PanelPlan, series: Sequence[Sequence[Series]]) -> None:
    looks = style.looks([curve.runs[0] for curve in panel.curves])
    for (delta, task, cosine), method in zip(series, looks):
        look = method._replace(linestyle="solid")  # the style tells delta from the other gradient
        prefix = f"{style.mathtext(delta.curve)}: " if len(series) > 1 else ""
        _line(axes, delta, look, prefix + r"$\delta = \partial\mathcal{L}_{\mathrm{BKD}}/\partial F$")
        other = look._replace(linestyle=(0, (1, 1.2)), marker="o")
        _line(axes, task, other, prefix + r"$\partial\mathcal{L}_{\mathrm{task}}/\partial F$", markerfacecolor="white")
        _line(below, cosine, look, "")
    logarithmic = any(mean > 0 for delta, task, _ in series for mean in (*delta.values.mean, *task.values.mean))
    scale = "log" if logarithmic else "linear"
    axes.set(yscale=scale, ylabel="root mean square", title=f"measured: {style.mathtext(panel.title)}")
    axes.legend(loc="best", ncols=2)
    below.axhline(0, color="0.4", linewidth=0.6)
    below.set(xlabel="epoch", ylabel="cosine")
    for one in (axes, below):
        one.margins(y=0.15)
        from_zero(one)


def _line(axes: Axes, line: Series, look: style.Look, label: str, **options: Any) -> None:
    draw_line(axes, line.x, line.values, look, label=label, markevery=max(1, len(line.x) // 6), **options)


def _records(line: Series) -> Iterator[dict[str, Any]]:
    for i, (x, mean) in enumerate(zip(line.x, line.values.mean)):
        yield {
            "curve": line.curve,
            "quantity": line.quantity,
            "x": x,
            "mean": mean,
            "std": line.values.std[i] if line.values.std else None,
            "n": line.n,
        }
