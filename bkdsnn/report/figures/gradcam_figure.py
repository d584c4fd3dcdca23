"""Grad-CAM (figures 2a and 3a): the image regions that decide a prediction, and their similarity to the teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from bkdsnn.analysis.maps import PanelMaps, Summary, TapSummary, read_maps
from bkdsnn.config.figure_plans import FigurePlan, PanelPlan
from bkdsnn.report.figures import style

COLORS = "inferno"  # lightness rises evenly with the map, also in grey and for the colour-blind
OPACITY = 0.65
GREY = (0.3, 1.0)  # of black and of white in the image below a map, that it shows through where the map is low
WIDEST = 0.95  # inches of an image
TITLE, HEAD, BELOW, BAR = 0.22, 0.18, 0.24, 0.34  # inches of height
BAR_LABEL = "low ... high, each map scaled by itself"
NOTES = (
    "Maps are for the true class, over the image in grey; an evenly graded colour map is used where the paper has jet.",
    "Test set: similarity to the map of the ANN, mean over all test images: cosine, and the share of the highest 20 % "
    "of pixels that both have in common (unrelated maps: 20 %).",
)


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Draw the figure from its analysis, a row an image and tap, a column a network; return the paths.

    The CSV has the summary over the test set. Raises `UserError` for an analysis that is missing, damaged or of other
    runs.
    """
    shown, summary = read_maps(plan, results)
    columns = 1 + max(len(panel.curves) for panel in plan.panels)
    side = min(WIDEST, style.TWO_COLUMNS / columns)
    title = TITLE if len(plan.panels) > 1 else 0.0
    rows = [one.maps.shape[0] * one.maps.shape[2] for one in shown]
    heights = [title + HEAD + (side + BELOW) * count for count in rows]
    with style.applied():
        sheet = style.sheet(plan, side * columns, sum(heights) + BAR, NOTES)
        *parts, bottom = sheet.subfigures(len(shown) + 1, 1, squeeze=False, height_ratios=[*heights, BAR]).flat
        for part, panel, one, count in zip(parts, plan.panels, shown, rows):
            if title:
                size = matplotlib.rcParams["axes.titlesize"]
                part.suptitle(style.mathtext(panel.title), fontsize=size, weight="bold")
            _draw_panel(part.subplots(count, columns, squeeze=False), panel, one, summary)
        _draw_bar(bottom)
        return style.save(sheet, plan, [one.model_dump() for one in summary.methods], folder)


def _draw_panel(grid: NDArray[Any], panel: PanelPlan, shown: PanelMaps, summary: Summary) -> None:
    """Draw a panel on its axes; the summary of each tap stands below the last image."""
    networks = [summary.of(panel.title, curve.label) for curve in panel.curves]
    images, _, taps = shown.silent.shape
    for axes, head in zip(grid[0], ["image", *(curve.label for curve in panel.curves)]):
        axes.set_title(style.mathtext(head))
    for (first, *others), (image, tap) in zip(grid, np.ndindex(images, taps)):
        first.imshow(shown.images[image])
        first.set_ylabel(networks[0][tap].tap.replace("stage", "stage ") if taps > 1 else "")
        first.set_xlabel(f"class {shown.labels[image]}", fontsize=style.SMALL)
        for network, (axes, own) in enumerate(zip(others, networks)):
            below = f"predicted {shown.predicted[image, network]}"
            if network and image == images - 1:
                below += f"\ntest set: {_similarity(own[tap])}"
            axes.set_xlabel(below, fontsize=style.SMALL)
            _draw_map(axes, shown, (image, network, tap))
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    for axes in grid[:, 1 + len(networks) :].flat:
        axes.remove()


def _similarity(tap: TapSummary) -> str:
    if tap.cosine is None or tap.overlap is None:
        return "all empty"
    return f"{tap.cosine:.2f}, {100 * tap.overlap:.0f} %"


def _draw_map(axes: Axes, shown: PanelMaps, at: tuple[int, int, int]) -> None:
    """Lay the map of one image, network and tap over the image; where the map is empty, say why instead."""
    black, white = GREY
    image = shown.images[at[0]]
    grey = (black + (white - black) * image.mean(-1) / 255)[..., None]
    axes.imshow(np.broadcast_to(grey, image.shape))
    if shown.maps[at].any():
        axes.imshow(shown.maps[at], cmap=COLORS, alpha=OPACITY, vmin=0, vmax=1)
        return
    why = "the same\neverywhere" if shown.positive[at] else "no positive\nevidence"
    why = "never fires" if shown.silent[at] else why
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=style.SMALL, bbox=box)


def _draw_bar(part: SubFigure) -> None:
    """Explain the colours as they look over a middle grey."""
    axes = part.add_axes((0.3, 0.6, 0.4, 0.25), facecolor=str(sum(GREY) / 2))
    axes.imshow([np.linspace(0, 1, 256)], cmap=COLORS, alpha=OPACITY, aspect="auto")
    axes.set(xticks=[], yticks=[], xlabel=BAR_LABEL)
    axes.spines[:].set_visible(False)
