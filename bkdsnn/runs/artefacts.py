"""The files that a run leaves, and checks that they are unchanged. Free of torch: the workflow imports this module."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bkdsnn.config import RunSpec, paper
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, explain
from bkdsnn.runs.schema import AGAIN

SEALED = ("weights.safetensors", "predictions.npz", "history.jsonl", "spec.json")
ARTEFACTS = (*SEALED, "provenance.json", "metrics.json")  # the last is written last


def seal(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every sealed file of a run; the metrics record them, so that a copy can be verified."""
    return {name: files.sha256(folder / name) for name in SEALED}


def descent(parents: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the weights of each parent run, by the parent's name; `parents` are their folders."""
    return {folder.name: files.sha256(folder / "weights.safetensors") for folder in parents}


def expect_parents(results: Path, parents: Mapping[str, str], folder: Path) -> None:
    """Raise `UserError` if a parent's weights in `results` are not those that the run in `folder` was trained with.

    `parents` has the recorded SHA-256 of each parent's weights. Runs of older versions recorded none and are accepted.
    """
    for name, built_on in parents.items():
        path = results / "runs" / name / "metrics.json"
        seals = _json(path).get("files", {}) if path.is_file() else {}
        if (found := seals.get("weights.safetensors", built_on)) != built_on:
            raise UserError(
                f"{folder / 'metrics.json'}: the run was built on weights of {name} with SHA-256 {built_on[:10]}, but "
                f"those in {path.parent} have {found[:10]}: import both from one place, or {AGAIN}"
            )


def expect_sealed(folder: Path, seals: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise `UserError` for the first of the named files whose content differs from its recorded SHA-256.

    A file that is absent, or for which `seals` has no checksum, is not checked.
    """
    for name in names:
        path = folder / name
        if name in seals and path.is_file() and (found := files.sha256(path)) != seals[name]:
            raise UserError(
                f"{path}: SHA-256 begins {found[:10]}, expected {seals[name][:10]} as in metrics.json: it was changed, "
                f"or is of another run; {AGAIN}"
            )


def expect_spec(folder: Path, spec: RunSpec) -> None:
    """Raise `UserError` if `spec.json` or the header of the weights, where these files exist, name another run."""
    for path, digest in ((folder / "spec.json", _digest), (folder / "weights.safetensors", _stated)):
        if path.is_file() and (found := digest(path)) != spec.digest:
            raise UserError(
                f"{path}: belongs to spec {str(found)[:10]}, expected {spec.digest[:10]}: this is another run; {AGAIN}"
            )


def expect_version(folder: Path) -> None:
    """Raise `UserError` if `spec.json` in a run's folder, where it exists, is not of this version of the code.

    The message says what has changed since.
    """
    if (path := folder / "spec.json").is_file():
        _digest(path)


def find_run(name: str, scale: str, results: Path) -> RunSpec:
    """Return the spec of a run of the tables; one in `results` that older code made is refused by `expect_version`."""
    try:
        return paper.find_run(name, scale)
    except UserError:
        expect_version(results / "runs" / name)
        raise


def data_records(spec: RunSpec) -> list[str]:
    """Names of the manifests of a run's data in `results/<scale>/data/`, including those of its frames."""
    clips = {one.network.timesteps for one in (spec, spec.teacher) if one} if spec.dataset.events else set()
    frames = [f"{spec.dataset.name}-t{timesteps}.json" for timesteps in sorted(clips)]
    return [f"{spec.dataset.name}.json", *frames]


def expect_data(results: Path, spec: RunSpec, digest: str, folder: Path) -> None:
    """Raise `UserError` if the data in `results` differ from the data that the run was made with.

    `digest` identifies the latter, as the metrics in the run's `folder` record it. A missing manifest is accepted.
    """
    path = results / "data" / f"{spec.dataset.name}.json"
    if not path.is_file():
        return
    content = _json(path)
    found = content.get("digest") if isinstance(content, dict) else None
    if found != digest:
        mine = f"{path} has {str(found)[:10]}"
        raise UserError(
            f"{folder / 'metrics.json'}: the run used data with digest {digest[:10]}, but {mine}: other data; {AGAIN}"
        )


def _digest(path: Path) -> str:
    """The digest of the spec that a JSON file holds."""
    content = _json(path)
    try:
        return RunSpec.model_validate(content).digest
    except ValidationError as error:
        raise UserError(f"{explain(error, RunSpec, str(path))}; {AGAIN}") from error


def _stated(path: Path) -> object:
    """The digest of the spec that the header of a weights file states."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as stream:
            header = json.loads((stream.metadata() or {}).get("bkdsnn", "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged or not safetensors ({error}); {AGAIN}") from error
    return header.get("spec") if isinstance(header, dict) else None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); {AGAIN}") from error
