"""What a run left behind, read with distrust: a file that does not belong to its run is an error, never a number."""

from __future__ import annotations

import functools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from bkdsnn.errors import UserError, explain
from bkdsnn.spec import RunSpec

ROUNDING = 1e-6  # points of top-1
AGAIN = "remove that folder and make the run again"


class Top1(BaseModel):
    """Top-1 accuracies, percent; the bounds refuse NaN as well."""

    last: float = Field(ge=0, le=100)
    best: float = Field(ge=0, le=100)


class Data(BaseModel):
    """The data that a run saw; `digest` identifies its content."""

    label: str
    digest: str


class Metrics(BaseModel):
    """The part of `metrics.json` that tables use."""

    run: str
    spec: str
    top1: Top1
    parameters: int = Field(gt=0)
    test_images: int = Field(gt=0)
    dataset: Data


@dataclass(frozen=True)
class Finished:
    """A run that succeeded."""

    spec: RunSpec
    folder: Path
    metrics: Metrics

    def correct(self) -> NDArray[np.bool_] | None:
        """Return whether each test sample was classified correctly, bool (N,), or None if that was not kept.

        A file that cannot be read, or has other samples than the metrics, raises `UserError`.
        """
        path = self.folder / "predictions.npz"
        if not path.is_file():
            return None
        correct, stated = self.array("correct"), self.metrics.top1.last
        if correct.shape != (self.metrics.test_images,) or correct.dtype != np.bool_:
            expected = f"bool ({self.metrics.test_images},) as in metrics.json"
            raise UserError(f"{path}: 'correct' is {correct.dtype} {correct.shape}, expected {expected}; {AGAIN}")
        if abs((found := 100 * float(correct.mean())) - stated) > ROUNDING:
            raise UserError(f"{path}: {found:.2f} % are right, expected {stated:.2f} % as in metrics.json; {AGAIN}")
        return correct

    def array(self, name: str) -> NDArray[Any]:
        """Return an array of `predictions.npz`; `UserError` if it cannot be read."""
        return _array(self.folder / "predictions.npz", name)


def finished(spec: RunSpec, results: Path) -> Finished | None:
    """Return the result of a run, or None if it has none.

    Metrics of another run, and of other data than are prepared now, raise `UserError`.
    """
    folder = results / "runs" / spec.name
    if not (folder / "metrics.json").is_file():
        return None
    run = read(spec, folder)
    _expect_data(run, results / "data" / f"{spec.dataset.name}.json")
    return run


def read(spec: RunSpec, folder: Path) -> Finished:
    """Return the result of a run that lies in some folder; metrics of another run raise `UserError`."""
    path = folder / "metrics.json"
    metrics = _metrics(path)
    for key, found, expected in (("run", metrics.run, spec.name), ("spec", metrics.spec, spec.digest)):
        if found != expected:
            raise UserError(f"{path}: '{key}' is '{found}', expected '{expected}': this is another run; {AGAIN}")
    return Finished(spec, folder, metrics)


def failed(spec: RunSpec, results: Path) -> bool:
    """Return whether the last attempt at a run without metrics ended in an error."""
    return (results / "runs" / spec.name / "failure.json").is_file()


def _expect_data(run: Finished, manifest: Path) -> None:
    if manifest.is_file() and (now := _digest(manifest)) != (saw := run.metrics.dataset.digest):
        path = run.folder / "metrics.json"
        raise UserError(f"{path}: the run saw data with digest {saw[:10]}, {manifest} has {now[:10]}; {AGAIN}")


@functools.cache
def _digest(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_bytes())["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest}: damaged ({error!r}); remove it, the workflow makes it again") from error


def _metrics(path: Path) -> Metrics:
    try:
        return Metrics.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{explain(error, Metrics, str(path))}; {AGAIN}") from error


def _array(path: Path, name: str) -> NDArray[Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no array '{name}' can be read from it ({error}); {AGAIN}") from error
