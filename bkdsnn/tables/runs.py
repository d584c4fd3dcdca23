"""What a run left behind, read with distrust: a file that does not belong to its run is an error, never a number."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from bkdsnn.errors import UserError, explain
from bkdsnn.spec import RunSpec

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

        A file that cannot be read, or has another number of samples than the metrics, raises `UserError`.
        """
        path = self.folder / "predictions.npz"
        if not path.is_file():
            return None
        correct = _array(path, "correct")
        if correct.shape != (self.metrics.test_images,) or correct.dtype != np.bool_:
            expected = f"bool ({self.metrics.test_images},) as in metrics.json"
            raise UserError(f"{path}: 'correct' is {correct.dtype} {correct.shape}, expected {expected}; {AGAIN}")
        return correct


def finished(spec: RunSpec, results: Path) -> Finished | None:
    """Return the result of a run, or None if it has none; metrics of another run raise `UserError`."""
    folder = results / "runs" / spec.name
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    metrics = _metrics(path)
    for key, found, expected in (("run", metrics.run, spec.name), ("spec", metrics.spec, spec.digest)):
        if found != expected:
            raise UserError(f"{path}: '{key}' is '{found}', expected '{expected}': this is another run; {AGAIN}")
    return Finished(spec, folder, metrics)


def failed(spec: RunSpec, results: Path) -> bool:
    """Return whether the last attempt at a run without metrics ended in an error."""
    return (results / "runs" / spec.name / "failure.json").is_file()


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
