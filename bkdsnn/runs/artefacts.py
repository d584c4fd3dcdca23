"""The files that a run leaves, and whether they are those that it left. Free of torch; the workflow imports it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, explain
from bkdsnn.runs.schema import AGAIN

SEALED = ("weights.safetensors", "predictions.npz", "history.jsonl", "spec.json")
ARTEFACTS = (*SEALED, "provenance.json", "metrics.json")  # the last is written last


def seal(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every sealed file of a run, for its metrics: a copy can then be checked."""
    return {name: files.sha256(folder / name) for name in SEALED}


def descent(parents: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the weights that a run is built on, by the run that left them in its folder."""
    return {folder.name: files.sha256(folder / "weights.safetensors") for folder in parents}


def expect_parents(results: Path, parents: Mapping[str, str], folder: Path) -> None:
    """Raise `UserError` if `results` has other weights of a parent than those that the run in `folder` was built on.

    Runs of older versions do not say what they were built on, or have no checksums: then there is nothing to compare.
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
    """Raise `UserError` for the first file of these names that is not the one that was sealed.

    A file that is absent, or that was never sealed, is not checked.
    """
    for name in names:
        path = folder / name
        if name in seals and path.is_file() and (found := files.sha256(path)) != seals[name]:
            raise UserError(
                f"{path}: SHA-256 begins {found[:10]}, expected {seals[name][:10]} as in metrics.json: it was changed, "
                f"or is of another run; {AGAIN}"
            )


def expect_spec(folder: Path, spec: RunSpec) -> None:
    """Raise `UserError` if `spec.json` or the header of the weights, where they are there, are of another run."""
    for path, digest in ((folder / "spec.json", _digest), (folder / "weights.safetensors", _stated)):
        if path.is_file() and (found := digest(path)) != spec.digest:
            raise UserError(
                f"{path}: belongs to spec {str(found)[:10]}, expected {spec.digest[:10]}: this is another run; {AGAIN}"
            )


def data_records(spec: RunSpec) -> list[str]:
    """Names of the records of a run's data below `results/<scale>/data/`, those of its frames too."""
    clips = {one.network.timesteps for one in (spec, spec.teacher) if one} if spec.dataset.events else set()
    frames = [f"{spec.dataset.name}-t{timesteps}.json" for timesteps in sorted(clips)]
    return [f"{spec.dataset.name}.json", *frames]


def expect_data(results: Path, spec: RunSpec, digest: str, folder: Path) -> None:
    """Raise `UserError` if the run saw other data, by their digest, than `results` has.

    `digest` is that of the metrics in the run's `folder`. Without a manifest there is nothing to compare.
    """
    path = results / "data" / f"{spec.dataset.name}.json"
    if not path.is_file():
        return
    content = _json(path)
    found = content.get("digest") if isinstance(content, dict) else None
    if found != digest:
        mine = f"{path} has {str(found)[:10]}"
        raise UserError(
            f"{folder / 'metrics.json'}: the run saw data with digest {digest[:10]}, but {mine}: other data; {AGAIN}"
        )


def _digest(path: Path) -> str:
    """The digest of the spec in a file."""
    content = _json(path)
    try:
        return RunSpec.model_validate(content).digest
    except ValidationError as error:
        raise UserError(f"{explain(error, RunSpec, str(path))}; {AGAIN}") from error


def _stated(path: Path) -> object:
    """The digest of the spec in the header of a file of weights."""
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
