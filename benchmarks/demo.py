"""Whether the networks of a small scale are trained well enough to be compared; reads finished runs, trains nothing.

    snakemake --cores all all --config 'seeds=[0,1,2,3,4]'
    python benchmarks/demo.py

For each column of each table of accuracies, over the seeds that are finished: the mean of every cell, what its last
epoch added, and its standard deviation, beside the bounds below. Exits with 1 if a cell exceeds one of them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.config.plans import Cell, Plan
from bkdsnn.core.errors import UserError
from bkdsnn.runs.records import finished

LAST_GAIN = 2.0  # points that the last epoch may still add
SPREAD = 4.0  # points, standard deviation over seeds
LEAD = 2.0  # points that a teacher must have over the student that learns alone
CHANCES = 3.0  # a run below this multiple of chance has collapsed


@dataclass(frozen=True)
class Trained:
    """The finished runs of a cell: accuracies after every epoch, one list per seed."""

    spec: RunSpec
    curves: list[list[float]]

    @property
    def top1(self) -> list[float]:
        """Accuracy after the last epoch, in percent, by seed."""
        return [curve[-1] for curve in self.curves]

    @property
    def last_gain(self) -> float:
        """What the last epoch adds, in points, mean over seeds."""
        return statistics.mean(curve[-1] - curve[-2] for curve in self.curves) if len(self.curves[0]) > 1 else 0.0

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, in points; 0 for one seed."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0

    def faults(self, teacher: Trained | None) -> Iterator[str]:
        """Yield what is wrong with the cell; `teacher` are the runs that the column's students learn from."""
        if self.last_gain >= LAST_GAIN:
            yield f"the last epoch adds {self.last_gain:.1f}"
        if self.spread > SPREAD:
            yield f"standard deviation {self.spread:.1f}"
        if min(self.top1) < CHANCES * 100 / self.spec.dataset.classes:
            yield f"collapsed: {min(self.top1):.1f}"
        if teacher and statistics.mean(teacher.top1) < statistics.mean(self.top1) + LEAD:
            yield f"its teacher has {statistics.mean(teacher.top1):.1f}"


def main() -> None:
    """Print every cell and its faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="demo", choices=catalogue.scale_names())
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    try:
        found = [*checked(options.scale, options.seeds, options.results / options.scale)]
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    for line, faults in found:
        print(line, *faults, sep="  ")
    wrong = sum(bool(faults) for _, faults in found)
    if not found:
        raise SystemExit(f"error: no finished run of these seeds in {options.results / options.scale}")
    raise SystemExit(f"{wrong} cells exceed a bound" if wrong else 0)


def checked(scale: str, seeds: list[int], results: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a line of text and the faults of each finished cell of accuracies of all tables."""
    for name in catalogue.table_names():
        yield from rows(paper.plan(name, scale, seeds=seeds), results)


def rows(plan: Plan, results: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a line of text and the faults of each finished cell of accuracies of a table."""
    for cell in plan.cells:
        if cell.runs and cell.column.metric == "top1" and (trained := read(cell.runs, results)):
            teacher = read(taught_by(plan, cell), results) if cell.row.method == cell.column.student else None
            mean = statistics.mean(trained.top1)
            where = f"{plan.table.name:8} {cell.column.key:28} {cell.row.key:26}"
            numbers = f"{mean:6.1f} +- {trained.spread:4.1f}  last {trained.last_gain:+5.1f}  n {len(trained.curves)}"
            yield f"{where} {numbers}", [*trained.faults(teacher)]


def taught_by(plan: Plan, cell: Cell) -> list[RunSpec]:
    """Return the teachers of the distilled runs in the column of a cell, one per seed."""
    column = (other.runs for other in plan.cells if other.column.key == cell.column.key)
    taught = next((runs for runs in column if runs and runs[0].teacher), ())
    return [run.teacher for run in taught if run.teacher]


def read(runs: tuple[RunSpec, ...] | list[RunSpec], results: Path) -> Trained | None:
    """Return the finished ones of these runs, or None if there are none."""
    found = [run for spec in runs if (run := finished(spec, results))]
    if not found:
        return None
    return Trained(found[0].spec, [[epoch.top1 for epoch in run.history()] or [run.metrics.top1.last] for run in found])


if __name__ == "__main__":
    main()
