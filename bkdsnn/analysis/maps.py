"""The Grad-CAM files of a figure, validated when read. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, parsed

Share = float


class TapSummary(BaseModel):
    """One tap of one network of a panel, over the whole test set.

    `cosine` and `overlap` (of the top 20 % of pixels) compare the map with that of the teacher, the panel's first
    network. They are means, with sample standard deviations, over the `compared` images: those on which at least one of
    the two maps is not empty. The teacher is not compared with itself. `empty` is the share of images whose map is zero
    everywhere, `silent` the share of those whose feature is zero everywhere.
    """

    panel: str
    label: str
    run: str
    spec: str
    tap: str
    images: int = Field(gt=0)
    top1: float = Field(ge=0, le=100)
    compared: int = Field(ge=0)
    cosine: Share | None = Field(ge=0, le=1 + 1e-9)
    cosine_std: float | None = Field(ge=0)
    overlap: Share | None = Field(ge=0, le=1)
    overlap_std: float | None = Field(ge=0)
    empty: Share = Field(ge=0, le=1)
    silent: Share = Field(ge=0, le=1)


class Summary(BaseModel):
    """All taps of all networks of a figure.

    `shown` has the test-set indices of the images that the figure shows, `sha256` the checksum of the file of maps.
    """

    figure: str
    taps: Literal["all", "last"]
    shown: list[int]
    sha256: str
    methods: list[TapSummary]

    def of(self, panel: str, label: str) -> list[TapSummary]:
        """Return the taps of one network, in order of depth."""
        return [one for one in self.methods if (one.panel, one.label) == (panel, label)]


class PanelMaps(NamedTuple):
    """The I images that a panel shows, with the maps of its N networks at L taps."""

    images: NDArray[np.uint8]  # (I, H, W, 3)
    labels: NDArray[np.int64]  # (I,)
    predicted: NDArray[np.int64]  # (I, N)
    maps: NDArray[np.float32]  # (I, N, L, H, W), 0 .. 1
    silent: NDArray[np.bool_]  # (I, N, L)
    positive: NDArray[np.bool_]  # (I, N, L)


def maps_paths(plan: FigurePlan, results: Path) -> tuple[Path, Path]:
    """Paths of a figure's maps and summary; `results` is the folder of its scale."""
    base = results / "analyses" / plan.figure.name
    return base.with_suffix(".npz"), base.with_suffix(".json")


def write_maps(plan: FigurePlan, results: Path, shown: list[PanelMaps], methods: list[TapSummary]) -> None:
    """Write the two files that `read_maps` reads, each atomically; `shown` has one entry per panel."""
    shown_at, summary_at = maps_paths(plan, results)
    arrays = {f"{panel}/{key}": array for panel, one in enumerate(shown) for key, array in one._asdict().items()}
    with files.replacing(shown_at) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    about: dict[str, Any] = {"figure": plan.figure.name, "taps": plan.figure.taps, "shown": list(plan.figure.images)}
    summary = Summary(**about, sha256=files.sha256(shown_at), methods=methods)
    files.write_text(summary_at, summary.model_dump_json(indent=1) + "\n")


def read_maps(plan: FigurePlan, results: Path) -> tuple[list[PanelMaps], Summary]:
    """Return the images and maps of each panel, and the summary of a figure.

    Raises `UserError` for files that are missing, damaged, or of other runs, images or taps than the figure's.
    """
    shown_at, summary_at = maps_paths(plan, results)
    for path in (shown_at, summary_at):
        if not path.is_file():
            raise UserError(f"{plan.figure.name} shows maps of Grad-CAM: no {path}; make it with `{plan.command}`")
    try:
        summary = _read_summary(summary_at, plan)
        if (found := files.sha256(shown_at)) != summary.sha256:
            raise UserError(f"{shown_at}: SHA-256 begins {found[:10]}, expected {summary.sha256[:10]}: it was changed")
    except UserError as error:
        raise UserError(f"{error}; remove it and make it with `{plan.command}`") from error
    with np.load(shown_at, allow_pickle=False) as arrays:
        keys = [[f"{panel}/{key}" for key in PanelMaps._fields] for panel in range(len(plan.panels))]
        return [PanelMaps(*(arrays[key] for key in own)) for own in keys], summary


def _read_summary(path: Path, plan: FigurePlan) -> Summary:
    summary = parsed(Summary, path.read_bytes(), str(path))
    planned = {"figure": plan.figure.name, "taps": plan.figure.taps, "shown": list(plan.figure.images)}
    for key, expected in planned.items():
        if (found := getattr(summary, key)) != expected:
            raise UserError(f"{path}: '{key}' is {found}, expected {expected}")
    curves = [(panel.title, curve.label, curve.runs[0]) for panel in plan.panels for curve in panel.curves]
    runs = {(title, label, run.name, run.digest) for title, label, run in curves}
    if different := {(one.panel, one.label, one.run, one.spec) for one in summary.methods} ^ runs:
        raise UserError(f"{path}: was made for other runs: differs in {min(different)}")
    return summary
