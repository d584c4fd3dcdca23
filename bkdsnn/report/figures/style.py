"""The common look of the figures: sizes for print, colours, labels, the remarks below every picture, and saving.

    with style.applied():
        figure = style.sheet(plan, style.TWO_COLUMNS, height)
        ...
        style.save(figure, plan, records, folder)

Nothing here chooses a backend or keeps global state: a `Figure` finds the canvas of each format by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path

from bkdsnn.config import RunSpec
from bkdsnn.config.declarations import cited
from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.core import files

ONE_COLUMN, TWO_COLUMNS = 3.3, 7.0  # inches
SMALL = 5.5  # points: remarks below a picture
MARGIN = 0.05  # inches around the remarks
PITCH = 1.3  # distance of their lines, in sizes of their type

RC: dict[str, Any] = {
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: text stays text
    "mathtext.fontset": "stixsans",  # it has the script L of the losses
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "grid.linewidth": 0.4,
    "grid.color": "0.9",
    "axes.grid": True,
    "axes.axisbelow": True,
}

# Okabe and Ito, "Color universal design", 2008; their yellow is too pale for lines, so grey and brown are added
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY, BROWN = (
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#888888",
    "#7a4b1e",
)


class Look(NamedTuple):
    """Colour, line style and marker: each by itself tells curves apart, so that black-and-white print does."""

    color: str
    linestyle: Any
    marker: str


_DASHED, _DOTTED, _DASH_DOT, _LONG, _DENSE = (
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (4, 1.2, 1, 1.2)),
    (0, (7, 2)),
    (0, (2, 1)),
)
METHODS = {
    "ann": Look(BLACK, _DENSE, "x"),
    "convert": Look(GREY, "solid", "*"),
    "tet": Look(BROWN, _DENSE, "h"),
    "alone": Look(BLUE, _DOTTED, "o"),
    "kdsnn": Look(PURPLE, _DASH_DOT, "v"),
    "lasnn": Look(SKY, _LONG, "P"),
    "ld": Look(ORANGE, _DASHED, "s"),
    "bkd": Look(GREEN, _DASH_DOT, "^"),
    "bkdsnn": Look(VERMILION, "solid", "D"),
}
# Variants of one method, in their order: from light to dark
VARIANTS = (
    Look(SKY, _DOTTED, "o"),
    Look(PURPLE, _DASHED, "s"),
    Look(BLUE, _DASH_DOT, "^"),
    Look(BLACK, "solid", "D"),
    Look(ORANGE, _LONG, "v"),
)


def looks(runs: Sequence[RunSpec]) -> list[Look]:
    """Return the looks of the curves of one panel, of which `runs` has one run each.

    A method looks alike in all figures. Curves that are variants of one method, such as blur ratios, and methods that
    have no look of their own, get those of `VARIANTS` by their order.
    """
    methods = [_method(run) for run in runs]
    if len(set(methods)) == len(methods) and set(methods) <= METHODS.keys():
        return [METHODS[method] for method in methods]
    return list(itertools.islice(itertools.cycle(VARIANTS), len(methods)))


def _method(run: RunSpec) -> str:
    if run.network.form == "ann":
        return "ann"
    return run.method if run.distill or run.method in METHODS else "alone"


_MATH = (
    (re.compile(r"\bL_([A-Z]+)"), r"$\\mathcal{L}_{\\mathrm{\1}}$"),
    (re.compile(r"\bD\b(?!-\d)"), "$D$"),  # not the D of a deviation, such as D-148
    (re.compile("λ"), r"$\\lambda$"),
    (re.compile("τ"), r"$\\tau$"),
    (re.compile(r"\balpha\b"), r"$\\alpha$"),
)


def mathtext(label: str) -> str:
    """Return a plain label such as `+L_LD`, `λ = 0.15` or `D = 384` as matplotlib sets it."""
    text = label.replace("$", r"\$")
    for plain, math in _MATH:
        text = plain.sub(math, text)
    return text


def applied() -> contextlib.AbstractContextManager[None]:
    """Draw in this look, on matplotlib's defaults, and restore the user's own settings afterwards."""
    return matplotlib.style.context(RC, after_reset=True)


def sheet(plan: FigurePlan, width: float, height: float, notes: Iterable[str] = ()) -> Figure:
    """Return an empty figure for a drawing of width x height inches, with the remarks on it below.

    `notes` follow what every figure says. To be used, as `save`, within `applied`.
    """
    lines = _wrapped(mathtext(" ".join((*remarks(plan), *notes))), width - 2 * MARGIN)
    footer = len(lines) * SMALL * PITCH / 72 + 2 * MARGIN
    total = height + footer
    layout = ConstrainedLayoutEngine(rect=(0, footer / total, 1, height / total))
    figure = Figure(figsize=(width, total), dpi=RC["savefig.dpi"], layout=layout)
    for i, line in enumerate(lines, 1):
        bottom = (MARGIN + (len(lines) - i + 0.25) * SMALL * PITCH / 72) / total
        figure.text(MARGIN / width, bottom, line, fontsize=SMALL, color="0.25", va="baseline")
    return figure


def remarks(plan: FigurePlan) -> list[str]:
    """Sentences that every picture carries: its subject, scale and seeds, and its data with the data they replace."""
    parts = (f"{name} stands in for {real}" if real else name for name, real in plan.data.items())
    number = plan.figure.number
    return [
        f"Figure {number} of the paper, reproduced: {plan.figure.title}." if number else f"{plan.figure.title}.",
        plan.scale.note.strip(),
        f"Data: {'; '.join(parts)}.",
        f"{'Seed' if len(plan.seeds) == 1 else 'Seeds'}: {', '.join(map(str, plan.seeds))}.",
        *plan.figure.notes,
        *cited(plan.figure.deviations),
    ]


def spread(plan: FigurePlan, means: str = "Lines", deviations: str = "bands") -> list[str]:
    """Say how a figure shows several seeds."""
    told = f"{means}: mean over seeds; {deviations}: ± one sample standard deviation."
    return [told] if len(plan.seeds) > 1 else []


def legend(figure: Figure) -> None:
    """Explain the curves of all panels once, above them."""
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles))


def save(figure: Figure, plan: FigurePlan, records: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Path]:
    """Write `<folder>/<figure>.png`, `.pdf` and `.csv`, the plotted numbers; return the paths by suffix.

    All records have the keys of the first. The same figure gives the same bytes: no file has a date. The files take
    their places when all are complete; one that cannot be written raises `UserError`.
    """
    paths = {suffix: folder / f"{plan.figure.name}.{suffix}" for suffix in ("png", "pdf", "csv")}
    _fix_layout(figure)
    title = f"{f'Figure {plan.figure.number}' if plan.figure.number else plan.figure.name}, scale {plan.scale.name}"
    with contextlib.ExitStack() as stack:
        temporary = {suffix: stack.enter_context(files.replacing(path)) for suffix, path in paths.items()}
        made_by: dict[str, str | None] = {"Title": title, "Description": plan.command}
        figure.savefig(temporary["png"], format="png", metadata=made_by)
        made_by = {"Title": title, "Subject": plan.command, "CreationDate": None}
        figure.savefig(temporary["pdf"], format="pdf", metadata=made_by)
        common = {"figure": plan.figure.name, "scale": plan.scale.name}
        text = files.csv_text([{**common, **record} for record in records])
        temporary["csv"].write_text(text, encoding="utf-8", newline="")
    return paths


def _fix_layout(figure: Figure) -> None:
    """Lay the figure out once for all formats, and round: the last digits of the solver are not always the same."""
    for _ in range(2):  # images have a shape of their own, which the first pass finds out
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(side, 6) for side in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def _wrapped(text: str, width: float) -> list[str]:
    """Cut a text that `mathtext` made into lines of at most `width` inches, measured in the type of the remarks."""
    font = FontProperties(size=SMALL)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_to_path.get_text_width_height_descent(longer, font, True)[0] <= 72 * width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
