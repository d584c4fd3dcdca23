"""CSV: one line per cell, floats at full precision."""

from __future__ import annotations

import csv
import io
from typing import Any

from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, PairedDifference, TableModel


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
        "baseline": cell.baseline,
        "difference_relative": cell.relative,
        **_comparison(cell.to_baseline, ""),
        "seeds_for_80_power": cell.seeds_needed,
        "paper": cell.paper,
        "paper_origin": cell.origin,
        "paper_difference": cell.paper_delta,
        "parameters": cell.parameters,
        "paper_parameters_m": column.paper_parameters_m,
        "best_row": cell.to_best and cell.to_best.row,
        **_comparison(cell.to_best, "to_best_"),
        "bold": cell.bold,
        "underlined": cell.underlined,
        "runs": cell.runs,
    }


def _comparison(found: PairedDifference | None, prefix: str) -> dict[str, Any]:
    """A comparison's fields, empty where there is none; `prefix` tells them from those of another comparison."""
    interval = found and found.interval
    fields = {
        "difference": found and found.difference,
        "interval_low": interval and interval.low,
        "interval_high": interval and interval.high,
        "p": interval and interval.p,
        "p_holm": found and found.p_holm,
        "df": interval and interval.df,
        "seeds_paired": found and found.seeds,
        "mcnemar_p_by_seed": found and found.mcnemar,
    }
    return {prefix + name: value for name, value in fields.items()}


def _setting(place: str) -> str:
    """The CSV column of an option: `setting_ld_tau` for ld.tau."""
    return "setting_" + place.replace(".", "_").replace("-", "_")


def _field(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return ";".join(map(str, value)) if isinstance(value, tuple) else value
