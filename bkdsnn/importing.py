"""Bringing finished runs from elsewhere into the results of this machine, each verified before it enters.

A run is what its spec says: a folder enters only if spec, metrics, weights, predictions, history and provenance are of
one run that this configuration knows, and agree with each other. What nobody can verify is that training took place.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bkdsnn import archives, checkpoint, files, models, paper
from bkdsnn.data.manifest import Manifest
from bkdsnn.errors import UserError
from bkdsnn.progress import log
from bkdsnn.runs import ARTEFACTS, RunFolder
from bkdsnn.spec import RunSpec
from bkdsnn.tables.runs import Finished, read

EXPECTED = "a run's folder, a folder with such folders below it, or a tar or zip archive of one"


def bring(source: Path, scale: str, results: Path) -> None:
    """Import all runs in `source`, which is one of `EXPECTED`, into `results` (the folder of that scale).

    A run that is there already is left as it is. Raises `UserError` if `source` has no run, and, after the others have
    been imported, if some were refused.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; expected {EXPECTED}")
    results.mkdir(parents=True, exist_ok=True)
    with archives.opened(source, EXPECTED, beside=results) as folder:
        folders = sorted(path.parent for path in folder.rglob("metrics.json"))
        if not folders:
            raise UserError(f"{source}: no 'metrics.json' in it, which every finished run has; expected {EXPECTED}")
        refused = list(_refusals(folders, scale, results, source.name))
    if refused:
        raise UserError(f"{len(refused)} of {len(folders)} runs were refused: {'; '.join(refused)}")


def _refusals(folders: list[Path], scale: str, results: Path, origin: str) -> Iterator[str]:
    """Import runs, parents first, and give a message for each that is refused."""
    verified: list[tuple[Path, RunSpec]] = []
    for folder in folders:
        try:
            verified.append((folder, verify(folder, scale, results)))
        except UserError as error:
            yield str(error)
    for folder, spec in sorted(verified, key=lambda one: len(one[1].lineage())):
        try:
            _enter(folder, RunFolder(results / "runs", spec), origin)
        except UserError as error:
            yield str(error)


def verify(folder: Path, scale: str, results: Path) -> RunSpec:
    """Return the spec of the finished run in a folder, if all its files are of that run and fit each other.

    Raises `UserError` for whatever does not fit: a run that no table of the scale has, another spec, damaged weights or
    such of another network, predictions and history that say other than the metrics, other data than this machine has.
    """
    for name in ARTEFACTS:
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise UserError(f"{folder / name}: no such file; a finished run has {', '.join(ARTEFACTS)}")
    spec = paper.find_run(str(_json(folder / "metrics.json").get("run")), scale)
    run = read(spec, folder)
    _expect(folder / "spec.json", "spec", _json(folder / "spec.json"), json.loads(spec.canonical()))
    _expect_weights(run)
    _expect_predictions(run)
    _expect_history(run)
    _expect_data(run, results)
    return spec


def _expect_weights(run: Finished) -> None:
    path = run.folder / "weights.safetensors"
    tensors, header = checkpoint.read_tensors(path)
    _expect(path, "spec", header.get("spec"), run.spec.digest)
    network = models.build(run.spec.network, run.spec.dataset)
    checkpoint.load_weights(network, tensors, str(path))
    _expect(run.folder / "metrics.json", "parameters", run.metrics.parameters, models.count_parameters(network))


def _expect_predictions(run: Finished) -> None:
    path, classes = run.folder / "predictions.npz", run.spec.dataset.classes
    run.correct()
    predicted = run.array("predicted")
    if predicted.shape != (run.metrics.test_images,) or not np.isin(predicted, range(classes)).all():
        raise UserError(f"{path}: 'predicted' has other than {run.metrics.test_images} classes from 0 to {classes - 1}")


def _expect_history(run: Finished) -> None:
    path = run.folder / "history.jsonl"
    try:
        found = [(one["epoch"], one["top1"]) for one in map(json.loads, path.read_text().splitlines())]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the history of a run ({error!r})") from error
    recipe = run.spec.recipe
    _expect(path, "epoch", [epoch for epoch, _ in found], list(range(1, recipe.total_epochs + 1 if recipe else 1)))
    top1 = run.metrics.top1
    _expect(path, "top1", max([top1.last, *(value for _, value in found)]), top1.best)


def _expect_data(run: Finished, results: Path) -> None:
    """Compare with the data of this machine, if they are prepared here."""
    digest, dataset = run.metrics.dataset.digest, run.spec.dataset
    _expect(run.folder / "provenance.json", "data_digest", _json(run.folder / "provenance.json")["data_digest"], digest)
    manifest = results / "data" / f"{dataset.name}.json"
    if manifest.is_file():
        _expect(run.folder / "metrics.json", "dataset.digest", digest, Manifest.read(manifest, dataset).digest)
    else:
        log.info("%s: not compared with the data of this machine: there is no %s", run.spec.name, manifest)


def _enter(folder: Path, target: RunFolder, origin: str) -> None:
    """Copy the artefacts, the one that marks success last."""
    name = target.spec.name
    if target.finished:
        log.info("%s: is here already, left as it is", name)
        return
    lock = files.lock(target.lock)
    if lock is None:
        raise UserError(f"{target.path}: another process is writing this run; wait or stop it")
    with lock:
        for artefact in ARTEFACTS:
            if artefact == "provenance.json":
                entered = {"from": origin, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
                files.write_json(target.path / artefact, {**_json(folder / artefact), "imported": entered})
            else:
                with files.replacing(target.path / artefact) as temporary:
                    shutil.copyfile(folder / artefact, temporary)
        target.clear_checkpoints()
    log.info("%s: imported, top-1 %.2f %%", name, _json(target.path / "metrics.json")["top1"]["last"])
    for parent in target.spec.parents():
        if not target.of(parent).finished:
            log.warning(
                "%s is built on %s, which is not here: import that too, or both are made anew", name, parent.name
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, expected an object")
    return content


def _expect(path: Path, key: str, found: object, expected: object) -> None:
    if found != expected:
        raise UserError(f"{path}: '{key}' is {_short(found)}, expected {_short(expected)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
