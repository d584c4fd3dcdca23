"""What Grad-CAM left of a figure, read with distrust. Free of torch."""

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


class Method(BaseModel):
    """One tap of one network of a panel, over the whole test set.

    `cosine` and `overlap` (of the top 20 % of pixels) are means over the `compared` images, on which the maps of the
    student and of the panel's first network, its teacher, are not both empty; with the sample standard deviation. The
    teacher is not compared with itself. `empty` is the share of images whose map is zero everywhere, `silent` of those
    on which all entries of the feature are.
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
    """All taps of all networks of a figure; `shown` are the images that it shows, by their number in the test set."""

    figure: str
    taps: Literal["all", "last"]
    shown: list[int]
    methods: list[Method]

    def of(self, panel: str, label: str) -> list[Method]:
        """Return the taps of one network, in order of depth."""
        return [one for one in self.methods if (one.panel, one.label) == (panel, label)]


class Shown(NamedTuple):
    """The images that a panel shows, (I, ...), with what its N networks make of them at L taps; `specs` are digests."""

    specs: NDArray[np.str_]  # (N,)
    images: NDArray[np.uint8]  # (I, H, W, 3)
    labels: NDArray[np.int64]  # (I,)
    predicted: NDArray[np.int64]  # (I, N)
    maps: NDArray[np.float32]  # (I, N, L, H, W), 0 .. 1
    silent: NDArray[np.bool_]  # (I, N, L)
    positive: NDArray[np.bool_]  # (I, N, L)


def maps_paths(plan: FigurePlan, results: Path) -> tuple[Path, Path]:
    """Where shown maps and summary of a figure lie, below one scale's folder."""
    base = results / "analyses" / plan.figure.name
    return base.with_suffix(".npz"), base.with_suffix(".json")


def write_maps(plan: FigurePlan, results: Path, shown: list[Shown], summary: Summary) -> None:
    """Write what `read_maps` reads; `shown` is by panel. Each of both files is complete or the old one."""
    shown_at, summary_at = maps_paths(plan, results)
    arrays = {f"{panel}/{key}": array for panel, one in enumerate(shown) for key, array in one._asdict().items()}
    with files.replacing(shown_at) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    files.write_text(summary_at, summary.model_dump_json(indent=1) + "\n")


def read_maps(plan: FigurePlan, results: Path) -> tuple[list[Shown], Summary]:
    """Return what each panel shows, and the summary of a figure.

    Raises `UserError` for files that are missing, damaged, or of other runs, images or taps than the figure's.
    """
    shown_at, summary_at = maps_paths(plan, results)
    again = f"make it with `{plan.command}`"
    for path in (shown_at, summary_at):
        if not path.is_file():
            raise UserError(f"{plan.figure.name} shows maps of Grad-CAM: no {path}; {again}")
    again = f"remove it and {again}"
    summary = _read_summary(summary_at, again)
    _expect(summary_at, "figure", summary.figure, plan.figure.name, again)
    _expect(summary_at, "taps", summary.taps, plan.figure.taps, again)
    _expect(summary_at, "shown", summary.shown, list(plan.figure.images), again)
    _expect_runs(summary_at, _networks(summary), _planned(plan), again)
    shown = [_read_shown(shown_at, index, again) for index in range(len(plan.panels))]
    for panel, one in zip(plan.panels, shown):
        depth = [len(summary.of(panel.title, curve.label)) for curve in panel.curves]
        _expect(summary_at, f"taps of {panel.title}", depth, depth[:1] * len(depth), again)
        _expect_runs(shown_at, one.specs.tolist(), [curve.runs[0].digest for curve in panel.curves], again)
        if problem := _misshapen(one, len(plan.figure.images), len(depth), depth[0]):
            raise UserError(f"{shown_at}: {problem}; {again}")
    return shown, summary


def _read_summary(path: Path, again: str) -> Summary:
    try:
        return Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{explain(error, Summary, str(path))}; {again}") from error


def _read_shown(path: Path, panel: int, again: str) -> Shown:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return Shown(*(arrays[f"{panel}/{key}"] for key in Shown._fields))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable ({error}); {again}") from error


def _planned(plan: FigurePlan) -> list[tuple[str, ...]]:
    curves = ((panel.title, curve.label, curve.runs[0]) for panel in plan.panels for curve in panel.curves)
    return [(title, label, run.name, run.digest) for title, label, run in curves]


def _networks(summary: Summary) -> list[tuple[str, ...]]:
    return list(dict.fromkeys((one.panel, one.label, one.run, one.spec) for one in summary.methods))


def _expect(path: Path, key: str, found: Any, expected: Any, again: str) -> None:
    if found != expected:
        raise UserError(f"{path}: '{key}' is {found}, expected {expected}; {again}")


def _expect_runs(path: Path, found: Sequence[Any], expected: Sequence[Any], again: str) -> None:
    for one, planned in itertools.zip_longest(found, expected):
        if one != planned:
            raise UserError(f"{path}: is of other runs: has {one}, expected {planned}; {again}")


def _misshapen(shown: Shown, images: int, networks: int, taps: int) -> str:
    """Return what is wrong with the arrays, or nothing."""
    pixels = shown.images.shape[1:3]
    each = (images, networks, taps)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("u1", (images, *pixels, 3)),
        "labels": ("i8", (images,)),
        "predicted": ("i8", each[:2]),
        "maps": ("f4", (*each, *pixels)),
        "silent": ("b1", each),
        "positive": ("b1", each),
    }
    for key, (kind, shape) in expected.items():
        array = getattr(shown, key)
        if array.dtype != np.dtype(kind) or array.shape != shape:
            return f"'{key}' is {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape}"
    inside = (shown.maps >= 0) & (shown.maps <= 1)
    return "" if inside.all() else "'maps' has entries outside of 0 .. 1"
