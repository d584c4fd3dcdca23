"""Grad-CAM (figures 2a and 3a): what each network looks at, and how like its teacher it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from bkdsnn.analysis.maps import Method, Summary, read_maps
from bkdsnn.figures import style
from bkdsnn.figures.plan import FigurePlan

COLORS = "inferno"
NOTES = (
    "Maps are for the true class, each scaled by itself from low to high, over the image in grey.",
    "Below: similarity to the map of the ANN, mean over the whole test set: cosine, and the share that the top 20 % of "
    "pixels have in common.",
)


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from its analysis, a row an image and tap, a column a network; return the paths.

    Raises `UserError` if the analysis is missing, damaged or of other runs.
    """
    arrays, summary = read_maps(plan, results)
    rows = [row for index in range(len(plan.panels)) for row in _rows(plan, index, arrays, summary)]
    columns = 1 + max(len(panel.curves) for panel in plan.panels)
    side = min(1.05, style.TWO_COLUMNS / (columns + 0.6))
    with style.applied():
        sheet = style.sheet(plan, side * (columns + 0.6), (side + 0.22) * len(rows) + 0.2, NOTES)
        grid = sheet.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(grid, rows):
            _draw_row(list(line), row)
        scale = ScalarMappable(Normalize(0, 1), COLORS)
        bar = sheet.colorbar(scale, ax=grid, shrink=0.5, aspect=25, pad=0.01, ticks=[0, 1])
        bar.ax.set_yticklabels(["low", "high"])
        return style.save(sheet, plan, [_record(one) for one in summary.methods], folder)


class _Row:
    """One image and tap of a panel: its maps by network, with what is measured of each."""

    def __init__(self, arrays: dict[str, NDArray[Any]], panel: int, image: int, tap: int) -> None:
        own = {key.partition("/")[2]: array[image] for key, array in arrays.items() if key.startswith(f"{panel}/")}
        self.image, self.label = own["images"], int(own["labels"])
        self.maps, self.silent = own["maps"][:, tap], own["silent"][:, tap]
        self.predicted = own["predicted"]
        self.title = ""
        self.heads: list[str] = []
        self.methods: list[Method] = []


def _rows(plan: FigurePlan, index: int, arrays: dict[str, NDArray[Any]], summary: Summary) -> Iterator[_Row]:
    panel = plan.panels[index]
    known = {(one.label, one.tap): one for one in summary.methods if one.panel == panel.title}
    taps = [[tap for label, tap in known if label == curve.label] for curve in panel.curves]
    images = range(len(arrays[f"{index}/images"]))
    for image in images:
        for tap in range(len(taps[0])):
            row = _Row(arrays, index, image, tap)
            several = len(taps[0]) > 1
            row.title = taps[0][tap].replace("stage", "stage ") if several else panel.title if image == 0 else ""
            row.heads = ["image", *(curve.label for curve in panel.curves)] if image == tap == 0 else []
            if several or image == images[-1]:
                row.methods = [known[curve.label, own[tap]] for curve, own in zip(panel.curves, taps)]
            yield row


def _draw_row(line: list[Axes], row: _Row) -> None:
    first, *others = line
    first.imshow(row.image)
    first.set_ylabel(row.title.replace(" (", "\n("), fontsize=style.SMALL if "(" in row.title else None)
    first.set_xlabel(f"class {row.label}", fontsize=style.SMALL)
    grey = row.image.astype(np.float64).mean(-1)
    for index, axes in enumerate(others):
        if index >= len(row.maps):
            axes.remove()
            continue
        _draw_map(axes, grey, row.maps[index], bool(row.silent[index]))
        axes.set_xlabel(_below(row, index), fontsize=style.SMALL)
    for axes, head in zip(line, row.heads):
        axes.set_title(style.mathtext(head))
    for axes in line:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)


def _draw_map(axes: Axes, grey: NDArray[np.float64], found: NDArray[np.float32], silent: bool) -> None:
    """Lay the map over the image; one that is empty says why, in place of a blank picture."""
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    if found.any():
        axes.imshow(found, cmap=COLORS, vmin=0, vmax=1, alpha=0.65)
    else:
        text = "never fires" if silent else "no positive\nevidence"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=style.SMALL, bbox=box)


def _below(row: _Row, index: int) -> str:
    decided = f"decides {int(row.predicted[index])}"
    if not row.methods or index == 0:
        return decided
    method = row.methods[index]
    if method.cosine is None or method.overlap is None:
        return f"{decided}\nno map to compare"
    return f"{decided}\ncos {method.cosine:.2f}, top {100 * method.overlap:.0f} %"


def _record(method: Method) -> dict[str, Any]:
    return method.model_dump()
