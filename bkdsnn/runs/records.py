"""What a run left behind, read with distrust: a file that does not belong to its run is an error, never a number."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError, explain
from bkdsnn.runs.artefacts import AGAIN, expect_data, expect_parents, expect_sealed, expect_spec

LARGEST = 1 << 26  # bytes of an array of predictions
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Top1(BaseModel):
    """Top-1 accuracies, percent; the bounds refuse NaN as well."""

    last: float = Field(ge=0, le=100)
    best: float = Field(ge=0, le=100)
    best_epoch: int = Field(ge=0)


class Data(BaseModel):
    """The data that a run saw; `digest` identifies its content."""

    label: str
    digest: str


class Metrics(BaseModel):
    """Contents of `metrics.json`; runs of older versions have neither `files` nor `parents`.

    `files` has the SHA-256 of others, `parents` that of the weights of each run that this one is built on.
    """

    run: str
    spec: str
    top1: Top1
    epochs: int = Field(ge=0)
    parameters: int = Field(gt=0)
    test_images: int = Field(gt=0)
    dataset: Data
    files: dict[str, str] = {}
    parents: dict[str, str] = {}


@dataclass(frozen=True)
class Finished:
    """A run that succeeded."""

    spec: RunSpec
    folder: Path
    metrics: Metrics

    def correct(self) -> NDArray[np.bool_] | None:
        """Return whether each test sample was classified correctly, bool (N,), or None if that was not kept.

        A file that cannot be read, or does not fit the metrics, raises `UserError`.
        """
        path = self.folder / "predictions.npz"
        if not path.is_file():
            return None
        correct = _array(path, "correct")
        if correct.shape != (self.metrics.test_images,) or correct.dtype != np.bool_:
            expected = f"bool ({self.metrics.test_images},) as in metrics.json"
            raise UserError(f"{path}: 'correct' is {correct.dtype} {correct.shape}, expected {expected}; {AGAIN}")
        if (found := 100.0 * float(correct.mean())) != self.metrics.top1.last:
            expected = f"{self.metrics.top1.last} % as in metrics.json"
            raise UserError(f"{path}: {found} % are right, expected {expected}: this is another run; {AGAIN}")
        return correct

    def predicted(self) -> NDArray[np.int16]:
        """Return the predicted class of each test sample, int16 (N,); `UserError` if they cannot be of this run."""
        path = self.folder / "predictions.npz"
        predicted = _array(path, "predicted")
        if predicted.shape != (self.metrics.test_images,) or predicted.dtype != np.int16:
            expected = f"int16 ({self.metrics.test_images},)"
            raise UserError(f"{path}: 'predicted' is {predicted.dtype} {predicted.shape}, expected {expected}; {AGAIN}")
        if not ((predicted >= 0) & (predicted < self.spec.dataset.classes)).all():
            expected = f"0 to {self.spec.dataset.classes - 1}"
            raise UserError(
                f"{path}: 'predicted' has {predicted.min()} to {predicted.max()}, expected {expected}; {AGAIN}"
            )
        return predicted


def finished(spec: RunSpec, results: Path) -> Finished | None:
    """Return the result of a run, or None if it has none; files of another run raise `UserError`."""
    folder = results / "runs" / spec.name
    return read_run(spec, folder) if (folder / "metrics.json").is_file() else None


def read_run(spec: RunSpec, folder: Path) -> Finished:
    """Read a run from any folder; what does not belong to it raises `UserError`.

    All files must fit spec and metrics, so that a folder may be a copy from elsewhere. Only the content of the weights
    is not read, for they are large: their header is.
    """
    path = folder / "metrics.json"
    metrics = _metrics(path)
    for key, found, expected in (("run", metrics.run, spec.name), ("spec", metrics.spec, spec.digest)):
        if found != expected:
            raise UserError(f"{path}: '{key}' is '{found}', expected '{expected}': this is another run; {AGAIN}")
    expect_spec(folder, spec)
    run = Finished(spec, folder, metrics)
    run.correct()
    expect_sealed(folder, metrics.files, ("spec.json", "predictions.npz", "history.jsonl"))
    return run


def expect_here(run: Finished, results: Path) -> None:
    """Raise `UserError` if a run saw other data, or is built on other weights, than `results` has."""
    expect_data(results, run.spec, run.metrics.dataset.digest, run.folder)
    expect_parents(results, run.metrics.parents, run.folder)


def failed(spec: RunSpec, results: Path) -> bool:
    """Return whether the last attempt at a run without metrics ended in an error."""
    return (results / "runs" / spec.name / "failure.json").is_file()


def _metrics(path: Path) -> Metrics:
    try:
        return Metrics.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{explain(error, Metrics, str(path))}; {AGAIN}") from error


def _array(path: Path, name: str) -> NDArray[Any]:
    """Read one array; before that its size, for a few bytes can unpack to more than the memory holds."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as packed, packed.open(f"{name}.npy") as stream:
            if packed.getinfo(f"{name}.npy").file_size > LARGEST:
                raise ValueError(f"it has more than {LARGEST:,} bytes")
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise UserError(f"{path}: no array '{name}' can be read from it ({error}); {AGAIN}") from error
