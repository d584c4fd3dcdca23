"""Numbers and sentences that the renderers share, as plain text; each renderer escapes them in its own way."""

from __future__ import annotations

from collections.abc import Sequence

from bkdsnn.tables.cells import ColumnModel, MeasuredCell, TableModel

NO_VALUE = "\N{EN DASH}"
QUOTED = "†"
NOT_COMPARABLE = "*"


def fixed(value: float) -> str:
    """Two decimals, zeros kept: `94.60`."""
    return f"{value:.2f}"


def signed(value: float) -> str:
    """Two decimals with a sign, and no negative zero: `+0.20`."""
    return f"{round(value, 2) + 0.0:+.2f}"


def count(parameters: int) -> str:
    """A parameter count as the paper prints it, `12.63M`; below 100,000 in thousands, `8.4K`."""
    return f"{parameters / 1e3:.1f}K" if parameters < 100_000 else f"{parameters / 1e6:.2f}M"


def probability(p: float) -> str:
    """A p-value: `p = 0.031`, or `p < 0.001`."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def our_size(column: ColumnModel) -> str:
    """Measured size of the column's student network, empty before anything is measured."""
    return f"P: {count(column.parameters)}" if column.parameters else ""


def paper_size(column: ColumnModel) -> str:
    """The size that the paper prints, empty where ours prints alike."""
    printed = f"P: {column.paper_parameters_m:.2f}M"
    return "" if printed == our_size(column) else printed


def progress(cell: MeasuredCell) -> str:
    """How many of the planned seeds a partial cell has, `[1/2]`; empty for a complete one."""
    return f"[{len(cell.seeds)}/{cell.planned}]" if cell.state == "partial" else ""


def difference(cell: MeasuredCell) -> str:
    """The paired difference to the baseline with its p-value, `+0.20, p = 0.031`; empty if there is none."""
    if cell.delta is None:
        return ""
    return ", ".join([signed(cell.delta)] + ([] if cell.mcnemar_p is None else [probability(cell.mcnemar_p)]))


def paper_difference(cell: MeasuredCell) -> str:
    """The difference of the paper's own values, `+0.20`; empty if there is none."""
    return "" if cell.paper_delta is None else signed(cell.paper_delta)


def title(model: TableModel) -> str:
    """Which table of the paper this is, and what its numbers are."""
    return f"Table {model.number} of the paper, reproduced: {model.title}, {model.metric}."


def data(model: TableModel) -> str:
    """The data in use; stand-ins are named as such."""
    parts = dict.fromkeys(
        f"{column.dataset} stands in for {column.stands_in_for}" if column.stands_in_for else column.dataset
        for column in model.columns
    )
    return f"Data: {'; '.join(parts)}."


def statistics(model: TableModel) -> str:
    """What our values are, and over which seeds."""
    seeds = ", ".join(map(str, model.seeds))
    if len(model.seeds) == 1:
        return f"Ours: accuracy after the last epoch, one seed ({seeds})."
    over = f"{len(model.seeds)} seeds ({seeds})"
    return f"Ours: accuracy after the last epoch, mean ± sample standard deviation over {over}."


def differences(model: TableModel) -> str:
    """What the differences in parentheses are taken against; empty if the table has none."""
    parts = [_against(model, row) for row in model.rows() if any(cell.baseline for cell in row)]
    if not parts:
        return ""
    return (
        f"In parentheses: {'; '.join(parts)}. Mean over the seeds that both have, "
        "with p of an exact McNemar test on their test samples."
    )


def notes(model: TableModel) -> list[str]:
    """Remarks that belong below the table, those that apply and the table's own."""
    states = {cell.state for cell in model.cells}
    remarks = {
        "Bold: best SNN of the column. T: time-steps. P: parameters.": True,
        f"{NOT_COMPARABLE}Not comparable with ours: data, networks or schedules differ from the paper's at this "
        "scale.": not model.comparable,
        f"{QUOTED}The paper quotes this value from elsewhere.": any(cell.quoted for cell in model.cells),
        "One seed where no ± is given.": any(len(cell.seeds) == 1 for cell in model.cells) and len(model.seeds) > 1,
        "[k/n]: only k of n seeds have a result.": "partial" in states,
        "Not run: no result yet.": "not run" in states,
        "Failed: the run ended in an error.": "failed" in states,
    }
    return [remark for remark, applies in remarks.items() if applies] + list(model.footnotes)


def _against(model: TableModel, row: Sequence[MeasuredCell]) -> str:
    """`BKDSNN minus TET (R-19 CIFAR-10), KDSNN (R-20 CIFAR-100)`; one baseline for all needs no list of columns."""
    labels = {cell.method: cell.label for cell in model.cells}
    columns: dict[str, list[str]] = {}
    for cell, column in zip(row, model.columns):
        if cell.baseline:
            columns.setdefault(labels[cell.baseline], []).append(column.name)
    if len(columns) == 1:
        return f"{row[0].label} minus {next(iter(columns))}"
    return f"{row[0].label} minus " + ", ".join(f"{label} ({', '.join(names)})" for label, names in columns.items())
