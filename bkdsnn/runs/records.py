"""Reading the results of a run; every file is checked, and one that belongs to another run is an error."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.runs import schema
from bkdsnn.runs.artefacts import expect_data, expect_parents, expect_sealed, expect_spec
from bkdsnn.runs.schema import AGAIN, Epoch, Metrics, Provenance

LARGEST = 1 << 26  # most bytes that an array of predictions may have
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Finished:
    """A run that succeeded."""

    spec: RunSpec
    folder: Path
    metrics: Metrics

    def correct(self) -> NDArray[np.bool_] | None:
        """Return whether each test sample was classified correctly, bool (N,), or None if there are no predictions.

        Raises `UserError` for a file that is unreadable or contradicts the metrics.
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

    def by_timestep(self) -> tuple[float, ...]:
        """Return top-1 (per cent) after t = 1 ... T time-steps, or nothing for a run of an older version.

        Raises `UserError` for values that contradict T or the accuracy after all time-steps.
        """
        found, expected, last = self.metrics.top1_by_timestep, self.spec.network.timesteps, self.metrics.top1.last
        if found and (len(found) != expected or found[-1] != last):
            told = f"'top1_by_timestep' has {len(found)} values that end in {found[-1]}"
            raise UserError(f"{self.folder / 'metrics.json'}: {told}, expected {expected} that end in {last}; {AGAIN}")
        return found

    def predicted(self) -> NDArray[np.int16]:
        """Return the predicted class of each test sample, int16 (N,); `UserError` if they do not fit this run."""
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

    def history(self) -> list[Epoch]:
        """Return one record per planned epoch, first to last; `UserError` for a history that does not fit the spec."""
        path, planned = self.folder / "history.jsonl", self.spec.recipe.total_epochs if self.spec.recipe else 0
        epochs = schema.read_lines(Epoch, path)
        if (numbers := [epoch.epoch for epoch in epochs]) != list(range(1, planned + 1)):
            shown = ", ".join(map(str, numbers[-3:])) or "none"
            raise UserError(f"{path}: {len(epochs)} epochs that end in {shown}, expected 1 to {planned}; {AGAIN}")
        if self.metrics.epochs != planned:
            told = f"{self.folder / 'metrics.json'}: 'epochs' is {self.metrics.epochs}"
            raise UserError(f"{told}, expected {planned} as in history.jsonl; {AGAIN}")
        return epochs

    def provenance(self) -> Provenance:
        """Return code, environment and machine of the run; `UserError` if unreadable, or if it names other data."""
        path, expected = self.folder / "provenance.json", self.metrics.dataset.digest
        provenance = schema.read(Provenance, path)
        if (found := provenance.data_digest) != expected:
            told = f"'data_digest' is {found[:10]}, expected {expected[:10]} as in metrics.json"
            raise UserError(f"{path}: {told}; {AGAIN}")
        return provenance


def finished(spec: RunSpec, results: Path) -> Finished | None:
    """Return the result of a run, or None if it is unfinished; files of another run raise `UserError`."""
    folder = results / "runs" / spec.name
    return read_run(spec, folder) if (folder / "metrics.json").is_file() else None


def expect_finished(spec: RunSpec, results: Path) -> Finished:
    """Return the result of a run. If it is unfinished, raises `UserError` with the command that makes it."""
    run = finished(spec, results)
    if run is None:
        raise UserError(f"run {spec.name} is not finished; make it with `python -m bkdsnn train {spec.name}`")
    return run


def read_run(spec: RunSpec, folder: Path) -> Finished:
    """Read a run from any folder, also a copy from another machine; a file of another run raises `UserError`.

    All files must agree with spec and metrics. Of the weights only the header is read, because they are large.
    """
    path = folder / "metrics.json"
    metrics = schema.read(Metrics, path)
    for key, found, expected in (("run", metrics.run, spec.name), ("spec", metrics.spec, spec.digest)):
        if found != expected:
            raise UserError(f"{path}: '{key}' is '{found}', expected '{expected}': this is another run; {AGAIN}")
    expect_spec(folder, spec)
    run = Finished(spec, folder, metrics)
    run.correct()
    run.by_timestep()
    expect_sealed(folder, metrics.files, ("spec.json", "predictions.npz", "history.jsonl"))
    return run


def expect_here(run: Finished, results: Path) -> None:
    """Raise `UserError` if a run was made with other data, or other parent weights, than those in `results`."""
    expect_data(results, run.spec, run.metrics.dataset.digest, run.folder)
    expect_parents(results, run.metrics.parents, run.folder)


def failed(spec: RunSpec, results: Path) -> bool:
    """Return whether the last attempt at a run without metrics ended in an error."""
    return (results / "runs" / spec.name / "failure.json").is_file()


def _array(path: Path, name: str) -> NDArray[Any]:
    """Read one array after checking its size, because a small file can unpack to more than the memory holds."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as packed, packed.open(f"{name}.npy") as stream:
            if packed.getinfo(f"{name}.npy").file_size > LARGEST:
                raise ValueError(f"it has more than {LARGEST:,} bytes")
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise UserError(f"{path}: no array '{name}' can be read from it ({error}); {AGAIN}") from error
