"""Attempts at a run: how far a checkpoint got, and whether the previous attempt made progress. Free of torch."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bkdsnn.core.errors import UserError
from bkdsnn.runs import schema
from bkdsnn.runs.artefacts import data_records
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.schema import Failure, Place


def standing(checkpoint: Path) -> Place:
    """Return the epoch and step of a checkpoint, or None if it is missing or unreadable."""
    try:
        with safe_open(checkpoint, "np") as stream:
            position = json.loads(stream.metadata()["bkdsnn"])["position"]
            return position["epoch"], position["step"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def expect_progress(folder: RunFolder, attempt: int) -> None:
    """Raise `UserError` if this is a retry and the previous attempt made no progress.

    The run is then marked as failed, because an attempt that was killed could not do so itself.
    """
    stands, began = standing(folder.checkpoint), [one.origin for one in folder.attempts()[-1:]]
    if attempt == 1 or folder.finished or [stands] != (began or [None]):
        return
    where = "its beginning" if stands is None else f"epoch {stands[0] + 1}, step {stands[1]}"
    reported = folder.failure.is_file()
    why = schema.read(Failure, folder.failure).message if reported else "it was killed"
    message = (
        f"run {folder.spec.name}: attempt {attempt - 1} saved nothing after {where} ({why}), and another would fail "
        "likewise; correct the cause, then start snakemake again"
    )
    if not reported:
        folder.failed(message)
    raise UserError(message)


def expect_ready(folder: RunFolder, options: str) -> None:
    """Raise `UserError` if data or runs that this run needs are missing; the message names the command that makes them.

    `options` of the user's own command are repeated in it.
    """
    spec, python = folder.spec, "`python -m bkdsnn"
    for record in data_records(spec):
        if not (folder.runs.parent / "data" / record).is_file():
            clips = record.removesuffix(".json").removeprefix(f"{spec.dataset.name}")
            made = f"frames {spec.dataset.name} --timesteps {clips[2:]}" if clips else f"data {spec.dataset.name}"
            raise UserError(f"run {spec.name}: {record} of its data is missing; make it by {python} {made} {options}`")
    for parent in spec.parents():
        if not folder.of(parent).finished:
            role = "teacher" if parent == spec.teacher else "source"
            raise UserError(
                f"run {spec.name}: its {role} is not trained; do so by {python} train {parent.name} {options}`"
            )
