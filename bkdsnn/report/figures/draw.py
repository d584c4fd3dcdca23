"""Which module draws a figure: one per kind."""

from __future__ import annotations

import importlib
from pathlib import Path

from bkdsnn.config.figure_plans import FigurePlan, Kind

_MODULES: dict[Kind, str] = {  # imported when they draw
    "gradcam": "gradcam_figure",
    "histogram": "histogram",
    "accuracy-by-time": "curves",
    "accuracy-by-epoch": "curves",
    "accuracy-by-timestep": "curves",
    "gradient": "gradient",
    "firing-rates": "firing_rates",
}


def draw(plan: FigurePlan, results: Path, folder: Path) -> dict[str, Path]:
    """Write `<folder>/<figure>.png`, `.pdf` and `.csv` from what runs left in `results`; return the paths by suffix.

    Nothing is trained or measured here: a run or an analysis that is missing, or not of this plan, raises `UserError`
    with the command that makes it, and leaves the files of an earlier drawing alone.
    """
    module = importlib.import_module(f"bkdsnn.report.figures.{_MODULES[plan.figure.kind]}")
    paths: dict[str, Path] = module.draw(plan, results, folder)
    return paths
