"""CSV: one line per cell, floats at full precision."""

from __future__ import annotations

import csv
import io
from typing import Any

from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, TableModel


def render(model: TableModel) -> str:
    """Return the table in long format (one line per cell) with a header line; a missing number is an empty field."""
    columns = {column.key: column for column in model.columns}
    records = [_record(model, columns[cell.column], cell) for cell in model.cells]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in record.items()} for record in records)
    return text.getvalue()


def _record(model: TableModel, column: ColumnModel, cell: MeasuredCell) -> dict[str, Any]:
    return {
        "table": model.name,
        "scale": model.scale,
        "group": cell.group,
        "row": cell.row,
        "method": cell.method,
        "label": cell.label,
        **dict(zip(map(_setting, model.settings.values()), cell.settings)),
        "column": cell.column,
        "metric": cell.metric,
        "architecture": column.architecture,
        "dataset": column.dataset,
        "timesteps": cell.timesteps,
        "state": cell.state,
        "mean": cell.mean,
        "std": cell.std,
        "n": len(cell.seeds),
        "planned": cell.planned,
        "seeds": cell.seeds,
        "best_epoch_mean": cell.best_epoch_mean,
        "delta": cell.delta,
        "delta_relative": cell.relative,
        "delta_baseline": cell.baseline,
        "mcnemar_p": cell.mcnemar_p,
        "paper": cell.paper,
        "paper_origin": cell.origin,
        "paper_delta": cell.paper_delta,
        "parameters": cell.parameters,
        "paper_parameters_m": column.paper_parameters_m,
        "bold": cell.bold,
        "runs": cell.runs,
    }


def _setting(place: str) -> str:
    """The CSV column of an option: `setting_ld_tau` for ld.tau."""
    return "setting_" + place.replace(".", "_").replace("-", "_")


def _field(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return ";".join(map(str, value)) if isinstance(value, tuple) else value
