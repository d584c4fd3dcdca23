"""Grad-CAM (figures 2a and 3a): what each network looks at, and how like its teacher it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from bkdsnn.analysis.maps import Method, Shown, Summary, read_maps
from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.report.figures import style

COLORS = "inferno"  # lightness rises evenly with the map, also in grey and for the colour-blind
OPACITY = 0.65
GREY = (0.3, 1.0)  # of black and of white in the image below a map, that it shows through where the map is low
WIDEST = 0.95  # inches of an image
TITLE, HEAD, BELOW, BAR = 0.22, 0.18, 0.24, 0.34  # inches of height
BAR_LABEL = "low ... high, each map scaled by itself"
NOTES = (
    "Maps are for the true class, over the image in grey; an evenly graded colour map is used where the paper has jet.",
    "Test set: likeness to the map of the ANN, mean over all test images: cosine, and the share of the highest 20 % of "
    "pixels that both have in common (unrelated maps: 20 %).",
)


class Cell(NamedTuple):
    """One map: `map` (H, W) in 0 .. 1; why it is empty if it is; what stands below."""

    map: NDArray[np.float32]
    empty: str
    below: str


class Row(NamedTuple):
    """One image (H, W, 3) and tap of a panel, a cell per network; `title` stands beside it."""

    image: NDArray[np.uint8]
    title: str
    label: str
    cells: list[Cell]


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from its analysis, a row an image and tap, a column a network; return the paths.

    The CSV has the summary over the test set. Raises `UserError` for an analysis that is missing, damaged or of other
    runs.
    """
    shown, summary = read_maps(plan, results)
    panels = [list(_rows(plan, index, shown[index], summary)) for index in range(len(plan.panels))]
    columns = 1 + max(len(panel.curves) for panel in plan.panels)
    side = min(WIDEST, style.TWO_COLUMNS / columns)
    title = TITLE if len(panels) > 1 else 0.0
    heights = [title + HEAD + (side + BELOW) * len(rows) for rows in panels]
    with style.applied():
        sheet = style.sheet(plan, side * columns, sum(heights) + BAR, NOTES)
        *parts, bottom = sheet.subfigures(len(panels) + 1, 1, squeeze=False, height_ratios=[*heights, BAR]).flat
        for part, panel, rows in zip(parts, plan.panels, panels):
            if title:
                part.suptitle(
                    style.mathtext(panel.title), fontsize=matplotlib.rcParams["axes.titlesize"], weight="bold"
                )
            _draw_panel(part, ["image", *(curve.label for curve in panel.curves)], columns, rows)
        _draw_bar(bottom)
        return style.save(sheet, plan, [one.model_dump() for one in summary.methods], folder)


def _rows(plan: FigurePlan, index: int, shown: Shown, summary: Summary) -> Iterator[Row]:
    """Yield the rows of a panel; the summary of each tap stands below the last image."""
    panel = plan.panels[index]
    methods = [summary.of(panel.title, curve.label) for curve in panel.curves]
    several = len(methods[0]) > 1
    for image, pixels in enumerate(shown.images):
        for tap, first in enumerate(methods[0]):
            last = image == len(shown.images) - 1
            cells = [
                Cell(
                    shown.maps[image, network, tap],
                    _why_empty(shown, (image, network, tap)),
                    _below(int(shown.predicted[image, network]), own[tap] if last and network else None),
                )
                for network, own in enumerate(methods)
            ]
            yield Row(pixels, first.tap.replace("stage", "stage ") if several else "", str(shown.labels[image]), cells)


def _why_empty(shown: Shown, at: tuple[int, int, int]) -> str:
    """Return what to write in place of a map that is zero everywhere; nothing for any other."""
    if shown.maps[at].any():
        return ""
    if shown.silent[at]:
        return "never fires"
    return "the same\neverywhere" if shown.positive[at] else "no positive\nevidence"


def _below(predicted: int, method: Method | None) -> str:
    decision = f"predicted {predicted}"
    if method is None:
        return decision
    if method.cosine is None or method.overlap is None:
        return f"{decision}\ntest set: all empty"
    return f"{decision}\ntest set: {method.cosine:.2f}, {100 * method.overlap:.0f} %"


def _draw_panel(part: SubFigure, heads: Sequence[str], columns: int, rows: Sequence[Row]) -> None:
    grid = part.subplots(len(rows), columns, squeeze=False)
    for axes, head in zip(grid[0], heads):
        axes.set_title(style.mathtext(head))
    for line, row in zip(grid, rows):
        line[0].imshow(row.image)
        line[0].set_ylabel(row.title)
        line[0].set_xlabel(f"class {row.label}", fontsize=style.SMALL)
        for axes, cell in zip(line[1:], row.cells):
            _draw_map(axes, row.image, cell)
        for axes in line:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        for axes in line[len(heads) :]:
            axes.remove()


def _draw_map(axes: Axes, image: NDArray[np.uint8], cell: Cell) -> None:
    """Lay a map over the image; one that is empty says why, in place of a blank picture."""
    black, white = GREY
    grey = (black + (white - black) * image.mean(-1) / 255)[..., None]
    axes.set_xlabel(cell.below, fontsize=style.SMALL)
    if not cell.empty:
        axes.imshow(_over(grey, matplotlib.colormaps[COLORS](cell.map)))
        return
    axes.imshow(np.broadcast_to(grey, image.shape))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(0.5, 0.5, cell.empty, transform=axes.transAxes, ha="center", va="center", fontsize=style.SMALL, bbox=box)


def _over(grey: NDArray[np.float64], colors: NDArray[np.float64]) -> NDArray[np.float64]:
    return OPACITY * colors[..., :3] + (1 - OPACITY) * grey


def _draw_bar(part: SubFigure) -> None:
    """Explain the colours as they look over a middle grey."""
    axes = part.add_axes((0.3, 0.6, 0.4, 0.25))
    bar = part.colorbar(ScalarMappable(cmap=_blended()), cax=axes, orientation="horizontal", ticks=[])
    bar.set_label(BAR_LABEL)


def _blended() -> Colormap:
    colors = matplotlib.colormaps[COLORS](np.linspace(0, 1, 256))
    return ListedColormap(_over(np.full((256, 1), sum(GREY) / 2), colors))
