"""The Grad-CAM files of a figure, validated when read. Free of torch."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, explain

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
    """All taps of all networks of a figure; `shown` has the test-set indices of the images that the figure shows."""

    figure: str
    taps: Literal["all", "last"]
    shown: list[int]
    methods: list[TapSummary]

    def of(self, panel: str, label: str) -> list[TapSummary]:
        """Return the taps of one network, in order of depth."""
        return [one for one in self.methods if (one.panel, one.label) == (panel, label)]


class PanelMaps(NamedTuple):
    """The I images that a panel shows, with the maps of its N networks at L taps; `specs` are the runs' digests."""

    specs: NDArray[np.str_]  # (N,)
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


def write_maps(plan: FigurePlan, results: Path, shown: list[PanelMaps], summary: Summary) -> None:
    """Write the two files that `read_maps` reads, each atomically; `shown` has one entry per panel."""
    shown_at, summary_at = maps_paths(plan, results)
    arrays = {f"{panel}/{key}": array for panel, one in enumerate(shown) for key, array in one._asdict().items()}
    with files.replacing(shown_at) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
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
        return [_read_panel(shown_at, plan, index, summary) for index in range(len(plan.panels))], summary
    except UserError as error:
        raise UserError(f"{error}; remove it and make it with `{plan.command}`") from error


def _read_summary(path: Path, plan: FigurePlan) -> Summary:
    try:
        summary = Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise explain(error, Summary, str(path)) from error
    _expect(path, "figure", summary.figure, plan.figure.name)
    _expect(path, "taps", summary.taps, plan.figure.taps)
    _expect(path, "shown", summary.shown, list(plan.figure.images))
    curves = [(panel.title, curve.label, curve.runs[0]) for panel in plan.panels for curve in panel.curves]
    planned = [(title, label, run.name, run.digest) for title, label, run in curves]
    _expect_runs(
        path, list(dict.fromkeys((one.panel, one.label, one.run, one.spec) for one in summary.methods)), planned
    )
    for panel in plan.panels:
        depths = [len(summary.of(panel.title, curve.label)) for curve in panel.curves]
        _expect(path, f"taps of {panel.title}", depths, depths[:1] * len(depths))
    return summary


def _read_panel(path: Path, plan: FigurePlan, index: int, summary: Summary) -> PanelMaps:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            shown = PanelMaps(*(arrays[f"{index}/{key}"] for key in PanelMaps._fields))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable ({error})") from error
    panel = plan.panels[index]
    _expect_runs(path, shown.specs.tolist(), [curve.runs[0].digest for curve in panel.curves])
    taps = len(summary.of(panel.title, panel.curves[0].label))
    each, pixels = (len(plan.figure.images), len(panel.curves), taps), shown.images.shape[1:3]
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "images": (np.uint8, (each[0], *pixels, 3)),
        "labels": (np.int64, each[:1]),
        "predicted": (np.int64, each[:2]),
        "maps": (np.float32, (*each, *pixels)),
        "silent": (np.bool_, each),
        "positive": (np.bool_, each),
    }
    for key, (kind, shape) in expected.items():
        array = getattr(shown, key)
        _expect(path, key, f"{array.dtype} {array.shape}", f"{np.dtype(kind)} {shape}")
    if not ((shown.maps >= 0) & (shown.maps <= 1)).all():
        raise UserError(f"{path}: 'maps' has numbers below 0 or above 1")
    return shown


def _expect(path: Path, key: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise UserError(f"{path}: '{key}' is {found}, expected {expected}")


def _expect_runs(path: Path, found: Sequence[Any], expected: Sequence[Any]) -> None:
    for one, planned in itertools.zip_longest(found, expected):
        if one != planned:
            raise UserError(f"{path}: was made for other runs: has {one}, expected {planned}")
