"""What Grad-CAM left of a figure, read with distrust. Free of torch."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from bkdsnn.errors import UserError, explain
from bkdsnn.figures.plan import FigurePlan


class Method(BaseModel):
    """One tap of one network of a panel, over the whole test set.

    `cosine` and `overlap` (of the top 20 % of pixels) are means over the `compared` images, on which the maps of the
    student and of the panel's first network, its teacher, are not both empty; with the sample standard deviation.
    `empty` maps are zero everywhere, on `silent` images all entries of the feature are.
    """

    panel: str
    label: str
    run: str
    spec: str
    tap: str
    images: int = Field(gt=0)
    compared: int = Field(ge=0)
    cosine: float | None
    cosine_std: float | None
    overlap: float | None
    overlap_std: float | None
    empty: int = Field(ge=0)
    silent: int = Field(ge=0)


class Summary(BaseModel):
    """All taps of all networks of a figure."""

    figure: str
    methods: list[Method]


def analysis_paths(plan: FigurePlan, results: Path) -> tuple[Path, Path]:
    """Where the shown maps and the summary lie, below one scale's folder."""
    base = results / "analyses" / plan.figure.name
    return base.with_suffix(".npz"), base.with_suffix(".json")


def read_maps(plan: FigurePlan, results: Path) -> tuple[dict[str, NDArray[Any]], Summary]:
    """Return shown arrays and summary of a figure; missing, damaged or foreign ones raise `UserError`."""
    shown_at, summary_at = analysis_paths(plan, results)
    again = f"remove it and make it again with `{plan.command}`"
    try:
        summary = Summary.model_validate_json(summary_at.read_bytes())
        with np.load(shown_at, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored}
    except ValidationError as error:
        raise UserError(f"{explain(error, Summary, str(summary_at))}; {again}") from error
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; make it with `{plan.command}`") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{shown_at}: not readable ({error}); {again}") from error
    expected = {(run.name, run.digest) for run in plan.runs().values()}
    if {(one.run, one.spec) for one in summary.methods} != expected:
        raise UserError(f"{summary_at}: is of other runs than the figure; {again}")
    return arrays, summary
