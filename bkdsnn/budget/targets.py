"""The runs behind targets of the workflow. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable

from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.config import figure_plans as figures
from bkdsnn.core.errors import unknown


def runs_of(targets: Iterable[str], scale: str, neurons: paper.Preset) -> dict[str, RunSpec]:
    """Return the runs of tables and figures at one seed, ancestors too, by name; of all tables if none is named.

    Raises `UserError` for an unknown target or scale.
    """
    expansion = paper.Expansion(scale, neurons=neurons)
    plans = (planned(expansion, one, expansion.scale.seeds[:1]) for one in [*targets] or catalogue.table_names())
    return {run.name: run for plan in plans for spec in plan.runs().values() for run in spec.lineage()}


def planned(expansion: paper.Expansion, target: str, seeds: Iterable[int] | None) -> paper.Plan | figures.FigurePlan:
    """Return the plan of a table or figure; an unknown name raises `UserError`."""
    if target in figures.figure_names():
        return figures.plan_figure(expansion, figures.load_figure(target), seeds)
    if target not in catalogue.table_names():
        raise unknown("target", target, {*catalogue.table_names(), *figures.figure_names()})
    return expansion.plan(catalogue.load_table(target), seeds)
