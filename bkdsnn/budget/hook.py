"""Where the budget meets Snakemake: at the end of a dry run, and before a real run begins.

Snakemake runs no hook in a dry run, so the Snakefile leaves `Watch.dry_run` to the end of the process. Processes that
carry out single jobs parse the Snakefile too; in them neither happens.
"""

from __future__ import annotations

import atexit
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkdsnn.core.errors import UserError

if TYPE_CHECKING:
    from bkdsnn.budget.estimate import Budget
    from bkdsnn.config import RunSpec
    from bkdsnn.config.settings import Settings

RULES = ("teacher", "student", "evaluation")


class Watch:
    """Tells what a call costs; `runs` are all runs of the scale by name, `threads` and `gpus` those of one run."""

    def __init__(self, workflow: Any, settings: Settings, runs: Mapping[str, RunSpec], threads: int, gpus: int) -> None:
        self._workflow, self._settings, self._runs = workflow, settings, runs
        self._threads, self._gpus = threads, gpus
        self._results = Path.cwd() / "results"  # when the process ends, Snakemake has left its working directory
        atexit.register(self.dry_run)

    def dry_run(self) -> None:
        """Tell the budget if this process was a dry run that knew its jobs; a cap exceeded is only a warning."""
        if self._workflow.dryrun and self._workflow.scheduler:
            try:
                if problem := self._tell():
                    self._say([f"warning: a real run would be refused: {problem}"])
            except UserError as error:
                self._say([f"budget: {error}"])

    def start(self) -> None:
        """Tell the budget before the first job. Raises `UserError` if a cap is exceeded or cannot be checked."""
        if self._workflow.touch:
            return
        try:
            problem = self._tell()
        except UserError as error:
            if any(cap is not None for _, cap in self._settings.budget):
                raise
            self._say([f"budget: {error}"])  # where there is no cap, a damaged calibration stops nobody
        else:
            if problem:
                raise UserError(problem)

    def _tell(self) -> str | None:
        """Print the budget of the jobs that need a run, if runs are among them; return what is wrong with it."""
        from bkdsnn.budget.budget_text import Advice, excess, summary

        jobs = list(self._workflow.dag.needrun_jobs(exclude_finished=False))
        if not any(job.rule.name in RULES for job in jobs):
            return None
        budget = self._budget(jobs)
        advice = Advice({job.rule.name for job in jobs}, self._settings)
        self._say(summary(budget, advice))
        return excess(budget, self._settings.budget, advice)

    def _budget(self, jobs: list[Any]) -> Budget:
        from bkdsnn.budget.estimate import Budget, Wanted, prepared, price, published
        from bkdsnn.budget.evidence import Evidence
        from bkdsnn.budget.work import Work

        named = [(job.rule.name, job.wildcards.run) for job in jobs if job.rule.name in RULES]
        wanted = [Wanted(rule, name, self._runs[name], Work.of(self._runs[name])) for rule, name in named]
        kin = {run.work.kin for run in wanted}
        scale, device = self._settings.scale, self._settings.device.partition(":")[0]
        evidence = Evidence.gather(self._results, scale, kin, self._runs, device)
        by_name = {spec.dataset.name: spec.dataset for spec in self._runs.values()}
        datasets = [by_name[job.wildcards.dataset] for job in jobs if job.rule.name == "dataset"]
        frames = [
            (by_name[job.wildcards.dataset], int(job.wildcards.timesteps)) for job in jobs if job.rule.name == "frames"
        ]
        stems = [job.wildcards.published for job in jobs if job.rule.name == "published_weights"]
        return Budget(
            runs=price(wanted, evidence, self._results / scale),
            device=evidence.device,
            prepared_bytes=prepared(datasets, frames, self._results / scale) + published(stems, self._runs, evidence),
            free_bytes=shutil.disk_usage(self._results.parent).free,
            at_once=min(self._at_once(), len(wanted)),
            others=len(jobs) - len(wanted),
        )

    def _at_once(self) -> int:
        """Return how many runs Snakemake would start side by side, at least 1. GPUs limit them if `gpu` is given."""
        given = self._workflow.global_resources
        nodes, cores = given["_nodes"].value, given["_cores"].value or 1
        limits = [nodes or cores // self._threads]
        if self._gpus and "gpu" in given:
            limits.append(given["gpu"].value // self._gpus)
        return max(1, min(limits))

    def _say(self, lines: list[str]) -> None:
        from snakemake.settings.types import Quietness

        if Quietness.ALL not in (self._workflow.output_settings.quiet or ()):
            print("", *lines, sep="\n", file=sys.stderr, flush=True)
