"""Firing rates of q, k, v and attention, block by block (figures A2 and A3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bkdsnn.analysis.activity_records import AGAIN, AttentionRates, activity_path, read_activity
from bkdsnn.config import RunSpec
from bkdsnn.config.figure_plans import CurvePlan, FigurePlan
from bkdsnn.core.errors import UserError
from bkdsnn.report.figures import style
from bkdsnn.report.figures.lines import Averaged, averaged

QUANTITIES = {"q": "$Q$", "k": "$K$", "v": "$V$", "attention": "attention"}
DODGE = 0.05  # blocks by which markers of neighbouring curves stand apart


Panel = list[dict[str, Averaged]]  # firing rates in per cent, one a block, by curve and quantity


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from the analyses of its runs; return the paths by suffix.

    Raises `UserError` for an analysis that is missing or not of its run, and for networks without spiking attention.
    """
    panels = [[_rates(plan, curve, results) for curve in panel.curves] for panel in plan.panels]
    with style.applied():
        figure = style.sheet(plan, style.TWO_COLUMNS, 0.4 + 1.4 * len(panels), style.spread(plan, "Markers", "bars"))
        grid = figure.subplots(len(panels), len(QUANTITIES), squeeze=False)
        for row, panel, curves in zip(grid, plan.panels, panels):
            looks = style.looks([curve.runs[0] for curve in panel.curves])
            for axes, quantity in zip(row, QUANTITIES):
                _draw(axes, [rates[quantity] for rates in curves], [curve.label for curve in panel.curves], looks)
            row[0].set_ylabel("firing rate (%)")
            title = style.mathtext(panel.title.replace(", ", ",\n"))
            row[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title=title, title_fontsize=6.5)
        for axes, heading in zip(grid[0], QUANTITIES.values()):
            axes.set_title(heading)
        for axes in grid[-1]:
            axes.set_xlabel("block")
        return style.save(figure, plan, list(_records(plan, panels)), folder)


def _rates(plan: FigurePlan, curve: CurvePlan, results: Path) -> dict[str, Averaged]:
    seeds = [_blocks(plan, run, results) for run in curve.runs]
    for run, blocks in zip(curve.runs, seeds):
        if len(blocks) != len(seeds[0]):
            path = activity_path(run.name, results)
            raise UserError(f"{path}: {len(blocks)} blocks, expected {len(seeds[0])} as with other seeds; {AGAIN}")
    return {
        quantity: averaged([100 * getattr(block, quantity) for block in blocks] for blocks in seeds)
        for quantity in QUANTITIES
    }


def _blocks(plan: FigurePlan, run: RunSpec, results: Path) -> list[AttentionRates]:
    activity = read_activity(run, results)
    if activity is None:
        raise UserError(
            f"{plan.figure.name} shows run {run.name}: no {activity_path(run.name, results)}; make it with "
            f"`{plan.command}`, or where the run is finished with "
            f"`python -m bkdsnn activity {run.name} --scale {plan.scale.name}`"
        )
    if not activity.blocks:
        raise UserError(
            f"{plan.figure.name} shows run {run.name}: its network '{run.network.name}' has no spiking attention; "
            f"mend config/figures/{plan.figure.name}.yaml"
        )
    return activity.blocks


def _draw(axes: Axes, curves: Sequence[Averaged], labels: Sequence[str], looks: Sequence[style.Look]) -> None:
    for i, (rates, label, look) in enumerate(zip(curves, labels, looks)):
        shift = DODGE * (i - (len(curves) - 1) / 2)
        x = [block + shift for block in range(1, len(rates.mean) + 1)]
        axes.errorbar(
            x, rates.mean, rates.std, **look._asdict(), label=style.mathtext(label), capsize=1.5, elinewidth=0.7
        )
    depth = max(len(rates.mean) for rates in curves)
    axes.set(xticks=range(1, depth + 1), xlim=(0.5, depth + 0.5))


def _records(plan: FigurePlan, panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """Rates in per cent."""
    for panel, curves in zip(plan.panels, panels):
        for curve, rates in zip(panel.curves, curves):
            for quantity, (means, stds) in rates.items():
                for i, mean in enumerate(means):
                    yield {
                        "panel": panel.title,
                        "curve": curve.label,
                        "quantity": quantity,
                        "block": i + 1,
                        "rate_mean": mean,
                        "rate_std": stds[i] if stds else None,
                        "n": len(curve.runs),
                        "seeds": ";".join(str(run.seed) for run in curve.runs),
                    }
