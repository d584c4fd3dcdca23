"""What finished runs took: better evidence than any calibration. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bkdsnn.budget.work import Work
from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.runs import schema
from bkdsnn.runs.schema import Metrics, Provenance

STATES = {"sgd": 1, "adam": 2, "adamw": 2, "lamb": 2}  # values that an optimiser keeps per parameter


class PastRun(NamedTuple):
    """One finished run. `overhead` is what its process took beyond training, seconds; None where that is not known."""

    spec: RunSpec
    work: Work
    device: str
    when: float
    epochs: int
    seconds: float
    overhead: float | None
    weights_bytes: int


def read_finished(name: str, spec: RunSpec, work: Work, results: Path) -> PastRun | None:
    """Read what the run of that name left below `results` (one scale's folder); None if it is unfinished or damaged.

    A damaged record is no evidence; the tables, which read the same files, complain about it.
    """
    folder = results / "runs" / name
    try:
        metrics = schema.read(Metrics, folder / "metrics.json")
        return PastRun(
            spec=spec,
            work=work,
            device=schema.read(Provenance, folder / "provenance.json").device,
            when=(folder / "metrics.json").stat().st_mtime,
            epochs=metrics.epochs,
            seconds=metrics.seconds,
            overhead=_overhead(results / "benchmarks" / "runs" / f"{name}.tsv", metrics.seconds),
            weights_bytes=(folder / "weights.safetensors").stat().st_size,
        )
    except (OSError, UserError):
        return None


def checkpoint_bytes(spec: RunSpec, weights_bytes: int) -> int:
    """Return about what a checkpoint takes: student and optimiser, without the criterion; 0 if nothing is trained."""
    return weights_bytes * (1 + STATES[spec.recipe.optimizer]) if spec.recipe else 0


def epochs_done(name: str, results: Path) -> int:
    """Return how many epochs an interrupted run has behind it."""
    folder = results / "runs" / name
    if not (folder / "checkpoints" / "last.safetensors").exists():
        return 0
    try:
        return len((folder / "history.jsonl").read_text().splitlines())
    except OSError:
        return 0


def _overhead(benchmark: Path, seconds: float) -> float | None:
    """Return the wall time of the job, as Snakemake measured it, less the training; None where it was resumed."""
    try:
        wall = float(benchmark.read_text().splitlines()[1].split("\t")[0])
    except (OSError, IndexError, ValueError):
        return None
    return wall - seconds if wall > seconds else None
