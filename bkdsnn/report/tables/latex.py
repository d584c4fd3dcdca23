r"""LaTeX: a complete float with booktabs rules, ready to paste.

A column of the table is printed as two columns, measured and the paper's, or as one if the paper has no numbers in it.
Differences to the baseline are on a line of their own below the row, as in the paper. A table that is wider than the
line is scaled down; one with many columns is rotated.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from bkdsnn.report.tables import wording
from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, TableModel

NEEDS = r"\usepackage{booktabs} \usepackage{graphicx}"
# The most printed columns that fit into one column of a two-column page, and into its full width; wider: rotated.
NARROW, WIDE = 4, 8
SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in "{}$&#%_"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"<": r"$<$", ">": r"$>$", "|": r"$|$", "±": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$"}
    | {"τ": r"$\tau$", "λ": r"$\lambda$"}
    | {wording.NO_VALUE: "--", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", wording.DIFFERS: r"$^{\S}$"}
)
# The paper's notation in already escaped text (losses such as +L_BKD, the block G), and its LaTeX.
NOTATION = {
    r"(\+?)\bL\\_([A-Z]+)\b": r"$\1\\mathcal{L}_{\\mathrm{\2}}$",
    r"\b(w/o?) G\b": r"\1 $\\mathcal{G}$",
}


def escape(text: str) -> str:
    """Return plain text as LaTeX that prints it unchanged; the paper's notation becomes mathematics."""
    text = text.translate(SPECIAL)
    for notation, maths in NOTATION.items():
        text = re.sub(notation, maths, text)
    return text


def render(model: TableModel) -> str:
    """Return the LaTeX float; a leading comment names the packages that it needs."""
    environment = _environment(model)
    lines = [
        f"% Made by: {model.command}",
        f"% Needs: {NEEDS}" + (r" \usepackage{rotating}" if "sideways" in environment else ""),
        rf"\begin{{{environment}}}[tbp]",
        r"  \centering",
        rf"  \caption{{{_caption(model)}}}",
        rf"  \label{{tab:{model.name}-{model.scale}}}",
        r"  \par\smallskip\setlength{\tabcolsep}{3pt}%",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{@{{}}{_alignment(model)}@{{}}}}",
        *(f"    {line}" for line in _tabular(model)),
        r"  \end{tabular}}",
        _notes(model),
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _environment(model: TableModel) -> str:
    printed = sum(map(_width, model.columns))
    if printed > WIDE:
        return "sidewaystable*"
    return "table*" if printed > NARROW else "table"


def _width(column: ColumnModel) -> int:
    """How many printed columns a column of the table takes."""
    return 2 if column.printed else 1


def _alignment(model: TableModel) -> str:
    return "ll" + "c" * (len(model.settings) + sum(map(_width, model.columns)) + 1)


def _caption(model: TableModel) -> str:
    facts = (wording.data(model), wording.statistics(model), wording.differences(model))
    return escape(" ".join(filter(None, [wording.title(model), model.note, *facts])))


def _notes(model: TableModel) -> str:
    notes = " ".join(escape(note) for note in wording.notes(model))
    return rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}"


def _tabular(model: TableModel) -> Iterator[str]:
    yield r"\toprule"
    yield from _header(model)
    for group, rows in itertools.groupby(model.rows(), key=lambda row: row[0].group):
        yield r"\midrule"
        labels = itertools.chain([escape(model.groups[group])], itertools.repeat(""))
        yield from (line for label, row in zip(labels, rows) for line in _row(model, label, row))
    yield r"\bottomrule"


def _header(model: TableModel) -> Iterator[str]:
    for level in range(max(len(column.heading) for column in model.columns)):
        yield from _level(model, level)
    paper = "paper" if model.comparable else rf"paper$^{{{wording.NOT_COMPARABLE}}}$"
    sizes = [
        size
        for column in model.columns
        for size in (wording.our_size(column), wording.paper_size(column))[: _width(column)]
    ]
    owners = [owner for column in model.columns for owner in ("measured", paper)[: _width(column)]]
    yield _line(["", "Method", *map(escape, model.settings), *owners, "$T$"])
    if any(sizes):
        yield _line([*_indent(model), *map(_small, sizes), ""])


def _indent(model: TableModel) -> list[str]:
    """The empty cells at the beginning of a line, in place of group, method and settings."""
    return [""] * (2 + len(model.settings))


def _level(model: TableModel, level: int) -> Iterator[str]:
    """One line of the grouped heading, and the rules under it; neighbours with the same heading share a cell."""
    cells, rules = _indent(model), []
    first = len(cells) + 1
    for path, columns in itertools.groupby(model.columns, key=lambda column: column.heading[: level + 1]):
        width = sum(map(_width, columns))
        label = path[level] if len(path) > level else ""
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(label)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    yield _line([*cells, ""])
    yield " ".join(rules)


def _row(model: TableModel, group: str, row: Sequence[MeasuredCell]) -> Iterator[str]:
    """The line of a row, and a second one if any of its cells has a difference."""
    settings = map(escape, wording.settings(model, row[0]))
    cells = _printed(model, row, _ours, lambda cell: escape(wording.paper_value(cell)))
    yield _line([group, escape(row[0].label), *settings, *cells, wording.times(row)])
    differences = _printed(model, row, wording.difference, wording.paper_difference)
    if any(differences):
        yield _line([*_indent(model), *map(_difference, differences), ""])


Text = Callable[[MeasuredCell], str]


def _printed(model: TableModel, row: Sequence[MeasuredCell], ours: Text, paper: Text) -> list[str]:
    """The texts of a row: for each column ours, and the paper's if the paper has numbers in that column."""
    pairs = zip(row, model.columns)
    return [text for cell, column in pairs for text in (ours(cell), paper(cell))[: _width(column)]]


def _ours(cell: MeasuredCell) -> str:
    if cell.mean is None:
        return rf"\textit{{{cell.state}}}"
    mean = wording.ours(cell)
    mark = r"\textbf" if cell.bold else r"\underline" if cell.underlined else ""
    std = _small(escape(wording.deviation(cell)))
    return " ".join(filter(None, [f"{mark}{{{mean}}}" if mark else mean, std, _small(wording.progress(cell))]))


def _difference(text: str) -> str:
    """A difference in parentheses, its hyphen replaced by a minus sign."""
    return _small(escape(f"({text})").replace("-", "$-$")) if text else ""


def _small(text: str) -> str:
    return rf"{{\scriptsize {text}}}" if text else ""


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
