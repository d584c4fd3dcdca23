"""The budget of a call of the workflow: the cost of the unfinished runs that its targets need. Free of torch.

It is computed from the plans and the existing files alone, without Snakemake's job graph.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from bkdsnn.budget.budget_text import excess, summary
from bkdsnn.budget.estimate import Budget, prepared, price
from bkdsnn.budget.evidence import Evidence
from bkdsnn.budget.work import kind
from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.config import figure_plans as figures
from bkdsnn.config.settings import Settings
from bkdsnn.core.errors import UserError
from bkdsnn.runs.artefacts import ARTEFACTS

IN_PATH = re.compile(r"(?:runs|analyses)/(?P<run>[^/]+)/|(?P<target>(?:table|fig)\w+?)(?:-layers)?\.\w+$")


def runs_of(
    targets: Iterable[str], expansion: paper.Expansion, seeds: Collection[int] | None = None
) -> dict[str, RunSpec]:
    """Return the runs of the named tables and figures, with ancestors, by name; without `targets` of all tables.

    `seeds` defaults to the scale's first seed. Raises `UserError` for an unknown target or scale.
    """
    chosen = tuple(seeds or expansion.scale.seeds[:1])
    plans = (figures.planned(expansion, target, chosen) for target in [*targets] or catalogue.table_names())
    return {run.name: run for plan in plans for spec in plan.runs().values() for run in spec.lineage()}


def outstanding(
    targets: Iterable[str], settings: Settings, runs: Mapping[str, RunSpec], results: Path
) -> list[RunSpec]:
    """Return the unfinished runs that targets of the workflow need; `runs` has all runs of the scale by name.

    A target is `all`, a table, a figure, or a file of a run, an analysis, a table or a figure. `results` is the folder
    of the scale.
    """
    known = {*catalogue.table_names(), *figures.figure_names()}
    named: dict[str, RunSpec] = {}
    for target in [*targets] or ["all"]:
        match = IN_PATH.search(target)
        run = runs.get(match["run"] or "") if match else None
        name = target if target in known else match and match["target"]
        if target == "all":
            named |= runs
        elif run:
            named |= {one.name: one for one in run.lineage()}
        elif name in known:
            seeds = settings.seeds or catalogue.load_scale(settings.scale).seeds
            named |= runs_of([str(name)], settings.expansion(), seeds)
    # Snakemake also makes a run again if one of its files was removed.
    return [
        spec for run, spec in named.items() if not all((results / "runs" / run / one).is_file() for one in ARTEFACTS)
    ]


def quote(
    targets: Collection[str], settings: Settings, runs: Mapping[str, RunSpec], results: Path, at_once: int
) -> tuple[list[str], str | None]:
    """Return the cost of a call as lines of text, and a message if it exceeds a cap (else None).

    `results` is the folder above the scales; `at_once` is how many runs may run in parallel. There are no lines if
    nothing needs training. A damaged calibration is reported, and refused if a cap is set.
    """
    folder = results / settings.scale
    wanted = outstanding(targets, settings, runs, folder)
    if not wanted:
        return [], None
    kinds, device = {kind(spec) for spec in wanted}, settings.device.partition(":")[0]
    try:
        evidence = Evidence.gather(results, settings.scale, kinds, runs, device)
    except UserError as error:
        return [f"budget: {error}"], str(error) if any(cap is not None for _, cap in settings.budget) else None
    priced = tuple(price(spec, evidence, folder) for spec in wanted)
    free = shutil.disk_usage(results if results.exists() else results.parent).free
    budget = Budget(priced, evidence.device, prepared(wanted, folder), free, max(1, min(at_once, len(wanted))))
    step = _step(targets, settings, {run.spec.dataset.name for run in budget.unknown if run.size is None})
    return summary(budget, step), excess(budget, settings.budget, step)


def _step(targets: Iterable[str], settings: Settings, uncounted: Collection[str]) -> str:
    """The commands that would measure runs of unknown time; datasets of unknown size (`uncounted`) come first."""
    known = {*catalogue.table_names(), *figures.figure_names()}
    shown = sorted(target for target in targets if target in known)
    words = ["python -m bkdsnn calibrate", *shown, "--scale", settings.scale, settings.variant]
    counted = [f"`python -m bkdsnn data {name} --scale {settings.scale}`, then " for name in sorted(uncounted)]
    return f"{''.join(counted)}`{' '.join(filter(None, words))}`"
