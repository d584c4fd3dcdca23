"""Writing a table to files."""

from __future__ import annotations

from pathlib import Path

from bkdsnn.analysis.energy import Constants
from bkdsnn.config.plans import Plan
from bkdsnn.core import files
from bkdsnn.report.tables import csv, latex, markdown
from bkdsnn.report.tables.measurement import measure

RENDERERS = {"csv": csv.render, "tex": latex.render, "md": markdown.render}


def emit(plan: Plan, results: Path, folder: Path, constants: Constants) -> dict[str, Path]:
    """Write `<folder>/<table>.csv`, `.tex` and `.md` from the runs in `results`; return the paths by suffix.

    An unusable result, or a file that cannot be written, raises `UserError`. In the first case nothing is written.
    Each file is written atomically.
    """
    model = measure(plan, results, constants)
    texts = {folder / f"{model.name}.{suffix}": render(model) for suffix, render in RENDERERS.items()}
    for path, text in texts.items():
        with files.replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return dict(zip(RENDERERS, texts))
