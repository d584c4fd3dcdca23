"""What a run recorded epoch by epoch, read with distrust."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from bkdsnn.config import RunSpec
from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.core.errors import UserError, explain
from bkdsnn.runs.artefacts import AGAIN
from bkdsnn.runs.records import Finished, expect_here, finished

TOLERANCE = 1.0  # points of top-1 by which evaluations of the same weights on two kinds of device may differ


class Gradients(BaseModel):
    """Root mean squares of dL_task/dF and of delta = dL_BKD/dF (Eq. A3), and the cosine of the angle between them."""

    task: float = Field(ge=0, allow_inf_nan=False)
    bkd: float = Field(ge=0, allow_inf_nan=False)
    cosine: float = Field(ge=-1, le=1)


class Epoch(BaseModel):
    """One line of `history.jsonl`, as far as figures use it; `top1` in per cent."""

    epoch: int
    top1: float = Field(ge=0, le=100)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    gradients: Gradients | None = None


class Attempt(BaseModel):
    """One start of a run; `device` as `devices.describe` names it."""

    device: str


class Provenance(BaseModel):
    """The part of `provenance.json` that figures use."""

    attempts: list[Attempt] = Field(min_length=1)


def finished_run(plan: FigurePlan, run: RunSpec, results: Path) -> Finished:
    """Return a finished run of a figure; one that is not raises `UserError` with the command that makes it."""
    found = finished(run, results)
    if found is None:
        missing = results / "runs" / run.name / "metrics.json"
        raise UserError(f"{plan.figure.name} shows run {run.name}: no {missing}; make it with `{plan.command}`")
    expect_here(found, results)
    return found


def read_history(plan: FigurePlan, run: RunSpec, results: Path) -> list[Epoch]:
    """Return the epochs of a finished run, first to last.

    Raises `UserError` for a run that is missing or was only evaluated, and for a history that is not this run's.
    """
    found = finished_run(plan, run, results)
    if run.recipe is None:
        raise UserError(f"{plan.figure.name} shows run {run.name}, which was evaluated and not trained: no epochs")
    path = found.folder / "history.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    epochs = [_epoch(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    numbers = [epoch.epoch for epoch in epochs]
    if numbers != list(range(1, run.recipe.total_epochs + 1)):
        shown = ", ".join(map(str, numbers[-3:])) or "none"
        raise UserError(
            f"{path}: {len(epochs)} epochs that end in {shown}, expected 1 to {run.recipe.total_epochs}; {AGAIN}"
        )
    last, stated = epochs[-1].top1, found.metrics.top1.last
    if abs(last - stated) > TOLERANCE:
        raise UserError(f"{path}: ends at top-1 {last}, but metrics.json says {stated}: this is another run; {AGAIN}")
    return epochs


def devices_of(run: RunSpec, results: Path) -> set[str]:
    """Return the names of the devices that a finished run was trained on."""
    path = results / "runs" / run.name / "provenance.json"
    try:
        provenance = Provenance.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    except ValidationError as error:
        raise UserError(f"{explain(error, Provenance, str(path))}; {AGAIN}") from error
    return {attempt.device for attempt in provenance.attempts}


def _epoch(line: str, where: str) -> Epoch:
    try:
        return Epoch.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"{explain(error, Epoch, where)}; {AGAIN}") from error
