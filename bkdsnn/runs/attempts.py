"""Attempts at a run: how far a checkpoint got, and whether another attempt makes sense. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.runs import ledger, schema
from bkdsnn.runs.artefacts import data_records
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.schema import Failure, Metrics, Place

LUCK = 3  # standard errors by which a network that guesses may exceed chance: more has a probability of about 0.1 %


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

    The run is then marked as failed, because an attempt that was killed could not do so itself. An attempt that had
    finished when its job was killed made progress, though Snakemake has deleted its results.
    """
    stands, last = standing(folder.checkpoint), ledger.read(folder.ledger)[-1:]
    began, reported = [one.origin for one in last] or [None], folder.failure.is_file()
    deleted = not reported and [one.event for one in last] == ["finished"]
    if attempt == 1 or folder.finished or deleted or [stands] != began:
        return
    where = "its beginning" if stands is None else f"epoch {stands[0] + 1}, step {stands[1]}"
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


def expect_able_teacher(folder: RunFolder, stated: Callable[[RunSpec], str]) -> None:
    """Raise `UserError`, and mark the run as failed, if its finished teacher is too weak to teach.

    The lowest accuracy is `floor` of the teacher's recipe, without a floor that of `guessing`. `stated` returns the
    file that states the floor of a run.
    """
    teacher = folder.spec.teacher
    if folder.finished or teacher is None or not folder.of(teacher).finished:
        return
    found = schema.read(Metrics, folder.of(teacher).path / "metrics.json")
    floor = teacher.recipe.floor if teacher.recipe else None
    chance = guessing(teacher.dataset.classes, found.test_images)
    if found.top1.last >= (chance if floor is None else floor):
        return
    guess = f"{chance:.2f} %, which guessing among {teacher.dataset.classes} classes may reach ('floor' is not stated)"
    expected = guess if floor is None else f"{floor:.2f} %, the 'floor' of its recipe in {stated(teacher)}"
    message = (
        f"run {folder.spec.name}: its teacher {teacher.name} has a top-1 accuracy of {found.top1.last:.2f} %, expected "
        f"at least {expected}; correct how the teacher is trained, or state another 'floor' in its recipe (0: none)"
    )
    folder.failed(message)
    raise UserError(message)


def guessing(classes: int, images: int) -> float:
    """Return the top-1 accuracy (%) of guesses on a test set: chance, and `LUCK` standard errors above it."""
    chance = 1 / classes
    return 100 * (chance + LUCK * math.sqrt(chance * (1 - chance) / images))
