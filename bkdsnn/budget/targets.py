"""The runs behind targets of the workflow. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.config import figure_plans as figures
from bkdsnn.core.errors import unknown


def runs_of(
    targets: Iterable[str], scale: str, neurons: paper.Preset, copies: Mapping[str, str] | None = None
) -> dict[str, RunSpec]:
    """Return the runs of tables and figures at one seed, ancestors too, by name; of all tables if none is named.

    Raises `UserError` for an unknown target or scale.
    """
    expansion = paper.Expansion(scale, neurons=neurons, copies=copies)
    known = {*catalogue.table_names(), *figures.figure_names()}
    runs: dict[str, RunSpec] = {}
    for target in [*targets] or catalogue.table_names():
        if target not in known:
            raise unknown("target", target, known)
        runs |= _runs(expansion, target)
    return runs


def _runs(expansion: paper.Expansion, target: str) -> dict[str, RunSpec]:
    if target in catalogue.table_names():
        return expansion.plan(catalogue.load_table(target), expansion.scale.seeds[:1]).runs()
    shown = figures.plan_figure(expansion, figures.load_figure(target), expansion.scale.seeds[:1]).runs().values()
    return {run.name: run for spec in shown for run in spec.lineage()}
