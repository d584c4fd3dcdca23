"""Numbers and sentences for all renderers, as plain text; each renderer escapes them for its format."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, Setting, TableModel

NO_VALUE = "\N{EN DASH}"
MARKS = {"quoted": "†", "inferred": "‡"}  # by origin of the paper's value
ORIGINS = {
    "quoted": "The paper quotes this value from elsewhere.",
    "inferred": "The paper does not print this value; inferred from a difference that it prints.",
}
NOT_COMPARABLE = "*"


def fixed(value: float, decimals: int = 2) -> str:
    """A number with fixed decimals, trailing zeros included: `94.60`."""
    return f"{value:.{decimals}f}"


def ours(cell: MeasuredCell) -> str:
    """Our mean as text; the cell must have one."""
    return fixed(cell.mean or 0.0, cell.decimals)


def deviation(cell: MeasuredCell) -> str:
    """The standard deviation, `± 0.20`; empty if there is none."""
    return "" if cell.std is None else f"± {fixed(cell.std, cell.decimals)}"


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
    """The size that the paper prints; empty if it prints none, or if ours is printed the same."""
    if column.paper_parameters_m is None:
        return ""
    printed = f"P: {column.paper_parameters_m:.2f}M"
    return "" if printed == our_size(column) else printed


def times(row: Sequence[MeasuredCell]) -> str:
    """T of a row; if it differs between columns, all values, `4, 8`."""
    return ", ".join(map(str, dict.fromkeys(cell.timesteps for cell in row)))


def settings(model: TableModel, cell: MeasuredCell) -> list[str]:
    """The settings of a cell's row; all numbers of one setting have the same decimals, `2.0` beside `1.5`."""
    columns = zip(*(other.settings for other in model.cells))
    return [_setting(value, column) for value, column in zip(cell.settings, columns)]


def paper_value(cell: MeasuredCell) -> str:
    """The paper's value with the mark of its origin; a dash if the paper has no value."""
    if cell.paper is None:
        return NO_VALUE
    return fixed(cell.paper) + MARKS.get(cell.origin or "", "")


def progress(cell: MeasuredCell) -> str:
    """How many of the planned seeds a partial cell has, `[1/2]`; empty for a complete one."""
    return f"[{len(cell.seeds)}/{cell.planned}]" if cell.state == "partial" else ""


def difference(cell: MeasuredCell) -> str:
    """The paired difference to the baseline with its p-value, `+0.20, p = 0.031`; empty if there is none."""
    if cell.delta is None:
        return ""
    p = [] if cell.mcnemar_p is None else [probability(cell.mcnemar_p)]
    return ", ".join([_delta(cell, cell.delta), *p])


def paper_difference(cell: MeasuredCell) -> str:
    """The difference of the paper's own values, `+0.20`; empty if there is none."""
    return "" if cell.paper_delta is None else _delta(cell, cell.paper_delta)


def _delta(cell: MeasuredCell, value: float) -> str:
    return signed(value) + ("%" if cell.relative else "")


def title(model: TableModel) -> str:
    """The caption's title: the table of the paper that this one reproduces or extends, and its metric."""
    if model.number:
        return f"Table {model.number} of the paper, reproduced: {model.title}, {model.metric}."
    added = ", ".join(labels(model)[row] for row in model.added)
    extended = f" Not of the paper: {added}; the other rows are of its table {model.base}, reproduced."
    return f"{model.title}, {model.metric}.{extended if model.base else ''}"


def data(model: TableModel) -> str:
    """The datasets in use; a dataset that replaces the paper's is marked as a stand-in."""
    parts = dict.fromkeys(
        f"{column.dataset} stands in for {column.stands_in_for}" if column.stands_in_for else column.dataset
        for column in model.columns
    )
    return f"Data: {'; '.join(parts)}."


def statistics(model: TableModel) -> str:
    """How our values are computed, and over which seeds."""
    seeds = ", ".join(map(str, model.seeds))
    what = "accuracy" if all(cell.metric == "top1" for cell in model.cells) else "the networks"
    if len(model.seeds) == 1:
        return f"Ours: {what} after the last epoch, one seed ({seeds})."
    over = f"{len(model.seeds)} seeds ({seeds})"
    return f"Ours: {what} after the last epoch, mean ± sample standard deviation over {over}."


def differences(model: TableModel) -> str:
    """The baselines of the differences in parentheses; empty if the table has none."""
    known = labels(model)
    compared: dict[str, list[str]] = {}
    for row in model.rows():
        if any(cell.baseline for cell in row):
            compared.setdefault(_baselines(model, row), []).append(known[row[0].row])
    if not compared:
        return ""
    parts = "; ".join(f"{', '.join(rows)} minus {baselines}" for baselines, rows in compared.items())
    tested = any(cell.metric == "top1" and cell.baseline for cell in model.cells)
    test = ", with p of an exact McNemar test on their test samples" if tested else ""
    relative = " Those in % are relative." if any(cell.relative for cell in model.cells) else ""
    return f"In parentheses: {parts}. Mean over the seeds that both have{test}.{relative}"


def teachers(model: TableModel) -> list[str]:
    """Teachers' networks that differ from the columns' own, `Teacher (R-19): vit-s-16 (P: 21.67M).`"""
    taught: dict[str, list[ColumnModel]] = {}
    for column in model.columns:
        if column.teacher:
            taught.setdefault(column.teacher, []).append(column)
    return [_teacher(model, name, columns) for name, columns in taught.items()]


def notes(model: TableModel) -> list[str]:
    """Remarks below the table: general ones that apply to it, and its own footnotes."""
    states = {cell.state for cell in model.cells}
    origins = {cell.origin for cell in model.cells}
    remarks = {
        "Bold: best SNN of the column. T: time-steps. P: parameters.": model.bold,
        "T: time-steps.": not model.bold,
        f"{NOT_COMPARABLE}Not comparable with ours: data, networks or schedules differ from the paper's at this "
        "scale.": not model.comparable and _beside_the_paper(model),
        **{MARKS[origin] + meaning: origin in origins for origin, meaning in ORIGINS.items()},
        "One seed where no ± is given.": any(len(cell.seeds) == 1 for cell in model.cells) and len(model.seeds) > 1,
        "[k/n]: only k of n seeds have a result.": "partial" in states,
        "Not run: no result yet.": "not run" in states,
        "Failed: the run ended in an error.": "failed" in states,
    }
    return [*(remark for remark, applies in remarks.items() if applies), *teachers(model), *model.footnotes]


def _beside_the_paper(model: TableModel) -> bool:
    """Whether the table is one of the paper's, or shows values from the paper."""
    return bool(model.number) or any(column.printed for column in model.columns)


def labels(model: TableModel) -> dict[str, str]:
    """Labels by row; rows with the same label are extended by their difference, `+L_MD [λ = 0.60]`."""
    features = {cell.row: [cell.label, *_features(model, cell)] for cell, *_ in model.rows()}
    return {
        row: _name(own, [other for other in features.values() if other[0] == own[0]]) for row, own in features.items()
    }


def _baselines(model: TableModel, row: Sequence[MeasuredCell]) -> str:
    """`TET (R-19 CIFAR-10), KDSNN (R-20 CIFAR-100)`; a baseline that all columns share is named without columns."""
    known = labels(model)
    columns: dict[str, list[str]] = {}
    for cell, column in zip(row, model.columns):
        if cell.baseline:
            columns.setdefault(known[cell.baseline], []).append(column.name)
    if len(columns) == 1:
        return next(iter(columns))
    return ", ".join(f"{label} ({', '.join(names)})" for label, names in columns.items())


def _features(model: TableModel, cell: MeasuredCell) -> list[str]:
    """Properties by which rows with the same label can differ."""
    shown = zip(model.settings, settings(model, cell))
    return [model.groups[cell.group], *(f"{heading} = {text}" for heading, text in shown), f"T = {cell.timesteps}"]


def _name(own: Sequence[str], alike: Sequence[Sequence[str]]) -> str:
    apart = [feature for feature, *others in zip(own, *alike) if len(set(others)) > 1]
    return f"{own[0]} [{', '.join(apart)}]" if apart else own[0]


def _setting(value: Setting, column: Sequence[Setting]) -> str:
    if value is None:
        return NO_VALUE
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{max(_decimals(other) for other in column if isinstance(other, float))}f}"


def _decimals(value: float) -> int:
    """How many decimals are needed to write the number exactly."""
    return len(f"{Decimal(repr(value)):f}".partition(".")[2])


def _teacher(model: TableModel, name: str, columns: Sequence[ColumnModel]) -> str:
    """A teacher's line; if it teaches only some of the columns, their headings are named."""
    headings = ", ".join(dict.fromkeys(column.heading[0] for column in columns))
    where = "" if len(columns) == len(model.columns) else f" ({headings})"
    sizes = ", ".join(
        dict.fromkeys(count(column.teacher_parameters) for column in columns if column.teacher_parameters)
    )
    return f"Teacher{where}: {name}{f' (P: {sizes})' if sizes else ''}."
