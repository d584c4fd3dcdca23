"""Numbers and sentences for all renderers, as plain text; each renderer escapes them for its format."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bkdsnn.core.paired import LEVEL
from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, Setting, TableModel

NO_VALUE = "\N{EN DASH}"
MARKS = {"quoted": "†", "inferred": "‡"}  # by origin of the paper's value
ORIGINS = {
    "quoted": "The paper quotes this value from elsewhere.",
    "inferred": "The paper does not print this value; inferred from a difference that it prints.",
}
NOT_COMPARABLE = "*"
DIFFERS = "§"


def fixed(value: float, decimals: int = 2) -> str:
    """A number with fixed decimals, trailing zeros included: `94.60`."""
    return f"{value:.{decimals}f}"


def ours(cell: MeasuredCell) -> str:
    """Our mean as text; the cell must have one."""
    return fixed(cell.mean or 0.0, cell.decimals)


def deviation(cell: MeasuredCell) -> str:
    """The standard deviation, `± 0.20`; empty if there is none."""
    return "" if cell.std is None else f"± {fixed(cell.std, cell.decimals)}"


def signed(value: float, decimals: int = 2) -> str:
    """Fixed decimals with a sign, and no negative zero: `+0.20`."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def count(parameters: int) -> str:
    """A parameter count as the paper prints it, `12.63M`; below 100,000 in thousands, `8.4K`."""
    return f"{parameters / 1e3:.1f}K" if parameters < 100_000 else f"{parameters / 1e6:.2f}M"


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
    """The paired difference to the baseline with its interval and mark, `+3.00 [+0.43, +5.57]§`; empty if none."""
    found = cell.to_baseline
    if found is None:
        return ""
    decimals = 2 if cell.relative else cell.decimals
    ends = (found.interval.low, found.interval.high) if found.interval else ()
    interval = f" [{', '.join(signed(end, decimals) for end in ends)}]" if ends else ""
    differs = found.p_holm is not None and found.p_holm < LEVEL
    return signed(found.difference, decimals) + _unit(cell) + interval + (DIFFERS if differs else "")


def paper_difference(cell: MeasuredCell) -> str:
    """The difference of the paper's own values, `+0.20`; empty if there is none."""
    return "" if cell.paper_delta is None else signed(cell.paper_delta) + _unit(cell)


def _unit(cell: MeasuredCell) -> str:
    return "%" if cell.relative else ""


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
    """How the measured values are computed, and over which seeds."""
    seeds = ", ".join(map(str, model.seeds))
    what = "accuracy" if all(cell.metric == "top1" for cell in model.cells) else "the networks"
    if len(model.seeds) == 1:
        return f"Measured: {what} after the last epoch. One seed ({seeds}): no statement about the methods."
    over = f"{len(model.seeds)} seeds ({seeds})"
    return f"Measured: {what} after the last epoch, mean ± sample standard deviation over {over}."


def differences(model: TableModel) -> str:
    """What the differences in parentheses are, and how their intervals are computed; empty if the table has none."""
    known = labels(model)
    compared: dict[str, list[str]] = {}
    for row in model.rows():
        if any(cell.baseline for cell in row):
            compared.setdefault(_baselines(model, row), []).append(known[row[0].row])
    if not compared:
        return ""
    parts = "; ".join(f"{', '.join(rows)} minus {baselines}" for baselines, rows in compared.items())
    relative = " Those in % are relative." if any(cell.relative for cell in model.cells) else ""
    paired = f" Mean over the seeds that both have{_intervals(model)}." if len(model.seeds) > 1 else ""
    return f"In parentheses: {parts}.{paired}{relative}"


def _intervals(model: TableModel) -> str:
    """The method of the intervals that the table shows."""
    shown = [cell for cell in model.cells if cell.to_baseline and cell.to_baseline.interval]
    two_way = [cell.metric == "top1" and not cell.relative for cell in shown]
    methods = {
        "two-way over seeds and test images": any(two_way),
        "by t over the seeds": bool(shown) and not any(two_way),
        "of other values by t over the seeds": any(two_way) and not all(two_way),
    }
    names = ", ".join(name for name, applies in methods.items() if applies)
    mark = f"{DIFFERS}: p < {LEVEL} after Holm's adjustment over the differences of the table"
    return f", with 95 % interval ({names}). {mark}" if names else ""


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
        f"{_marks(model)} T: time-steps. P: parameters.": model.bold,
        "T: time-steps.": not model.bold,
        f"{NOT_COMPARABLE}Not comparable with the measured values: data, networks or schedules differ from the paper's "
        "at this scale.": not model.comparable and _beside_the_paper(model),
        **{MARKS[origin] + meaning: origin in origins for origin, meaning in ORIGINS.items()},
        "One seed where no ± is given.": any(len(cell.seeds) == 1 for cell in model.cells) and len(model.seeds) > 1,
        "No statement about the methods where a difference has no interval: fewer than two seeds, no spread between "
        "them, or no predictions.": len(model.seeds) > 1
        and any(cell.to_baseline and not cell.to_baseline.interval for cell in model.cells),
        "[k/n]: only k of n seeds have a result.": "partial" in states,
        "Not run: no result yet.": "not run" in states,
        "Failed: the run ended in an error.": "failed" in states,
    }
    return [*(remark for remark, applies in remarks.items() if applies), *teachers(model), *model.footnotes]


def _marks(model: TableModel) -> str:
    """What bold and underlined cells are, and where there are none."""
    alike = (
        "Underlined: not told from it by a two-way comparison over seeds and test images (p not below "
        f"{LEVEL} after Holm's adjustment over all comparisons of the table with the best)."
    )
    unknown = "Nothing is underlined, because one seed cannot tell a better method from others."
    marked = {cell.column for cell in model.cells if cell.bold}
    open_columns = {cell.column for cell in model.cells if cell.competes and cell.metric == "top1"} - marked
    missing = ["Columns with missing results have no marks."] if open_columns else []
    return " ".join(["Bold: best mean of an SNN in the column.", alike if len(model.seeds) > 1 else unknown, *missing])


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
