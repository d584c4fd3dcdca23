"""Operations and energy of every layer of a table's networks, as CSV."""

from __future__ import annotations

from pathlib import Path

from bkdsnn.analysis import energy
from bkdsnn.analysis.activity_records import activity_path, read_activity
from bkdsnn.analysis.energy import Constants
from bkdsnn.config.plans import Plan
from bkdsnn.core import files
from bkdsnn.core.errors import UserError


def emit_layers(plan: Plan, results: Path, folder: Path, constants: Constants) -> Path:
    """Write `<folder>/<table>-layers.csv` from the analyses in `results`; a missing one raises `UserError`."""
    runs = plan.analysed()
    if not runs:
        raise UserError(f"{plan.table.name} measures accuracies only; expected a table of operations, such as table5b")
    activities = [(name, read_activity(run, results)) for name, run in runs.items()]
    missing = [name for name, activity in activities if activity is None]
    if missing:
        path = activity_path(missing[0], results)
        raise UserError(f"{path}: no such file; make it with `python -m bkdsnn activity {missing[0]}`")
    target = folder / f"{plan.table.name}-layers.csv"
    files.write_text(target, energy.layers_csv((activity for _, activity in activities if activity), constants))
    return target
