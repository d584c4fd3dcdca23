"""The accuracy of a run, epoch by epoch or by its time-steps, as figures need it."""

from __future__ import annotations

from pathlib import Path

from bkdsnn.config import RunSpec
from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.core.errors import UserError
from bkdsnn.runs.records import Finished, expect_here, finished
from bkdsnn.runs.schema import AGAIN, Epoch

TOLERANCE = 1.0  # points of top-1 by which evaluations of the same weights on two kinds of device may differ


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
        raise UserError(f"{plan.figure.name} shows run {run.name}, which was only evaluated and has no epochs")
    epochs, stated = found.history(), found.metrics.top1.last
    if abs(epochs[-1].top1 - stated) > TOLERANCE:
        told = f"ends at top-1 {epochs[-1].top1}, but metrics.json says {stated}: this is another run"
        raise UserError(f"{found.folder / 'history.jsonl'}: {told}; {AGAIN}")
    return epochs


def read_timesteps(plan: FigurePlan, run: RunSpec, results: Path) -> tuple[float, ...]:
    """Return the top-1 accuracies (per cent) of a finished run after t = 1 ... T time-steps; see `read_history`."""
    found = finished_run(plan, run, results)
    if not (accuracies := found.by_timestep()):
        older = "has no 'top1_by_timestep', because the run was made by an older version"
        raise UserError(f"{found.folder / 'metrics.json'}: {older}; {AGAIN}")
    return accuracies


def devices_of(plan: FigurePlan, run: RunSpec, results: Path) -> set[str]:
    """Return the names of the devices that a finished run was trained on."""
    return {attempt.device for attempt in finished_run(plan, run, results).provenance().attempts}
