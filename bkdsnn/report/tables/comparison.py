"""Comparing the cells of a table with their baselines, and with the best of their column (docs/analysis.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bkdsnn.config import Pretrained
from bkdsnn.config.declarations import MetricName
from bkdsnn.core.errors import UserError
from bkdsnn.core.paired import LEVEL, Floats, compare, holm, mcnemar
from bkdsnn.report.tables.cells import MeasuredCell, PairedDifference
from bkdsnn.report.tables.wording import fixed
from bkdsnn.runs.records import Finished
from bkdsnn.runs.schema import AGAIN

Valued = tuple[Finished, float]
Pair = tuple[Valued, Valued]


class Comparisons:
    """Paired comparisons of cells; the predictions of a run are read once, even if several cells need them."""

    def __init__(self) -> None:
        self._correct: dict[str, NDArray[np.bool_] | None] = {}

    def of(
        self, metric: MetricName, relative: bool, ours: Sequence[Valued], row: str, theirs: Sequence[Valued]
    ) -> PairedDifference | None:
        """Return the comparison of a cell's runs with those of another `row`; None if they have no common seed.

        Accuracies are compared image by image, other values and relative differences seed by seed. Raises `UserError`
        for two runs with different numbers of test images.
        """
        pairs = _pairs(ours, theirs)
        if not pairs:
            return None
        values = np.array([[difference(a, b, relative)] for (_, a), (_, b) in pairs])
        images = self._by_image(pairs) if metric == "top1" else None
        differences = images if metric == "top1" and not relative else values
        return PairedDifference(
            row=row,
            difference=float(values.mean()),
            seeds=tuple(run.spec.seed for (run, _), _ in pairs),
            interval=None if differences is None else compare(differences),
            mcnemar=() if images is None else tuple(_mcnemar(one) for one in images),
        )

    def _by_image(self, pairs: Sequence[Pair]) -> Floats | None:
        """The differences (S, n) of correct predictions in points, or None if a run has no predictions."""
        found = [(self._right(ours), self._right(theirs)) for (ours, _), (theirs, _) in pairs]
        kept = [(a, b) for a, b in found if a is not None and b is not None]
        if len(kept) < len(found):
            return None
        _expect_same_images([run for pair in pairs for run, _ in pair])
        return 100.0 * np.array([np.subtract(a, b, dtype=np.float64) for a, b in kept])

    def _right(self, run: Finished) -> NDArray[np.bool_] | None:
        if run.spec.name not in self._correct:
            self._correct[run.spec.name] = run.correct()
        return self._correct[run.spec.name]


def difference(ours: float, theirs: float, relative: bool) -> float:
    """Return ours minus theirs, or what this is in per cent of theirs."""
    return 100 * (ours / theirs - 1) if relative else ours - theirs


def _pairs(ours: Sequence[Valued], baseline: Sequence[Valued]) -> list[Pair]:
    """Results of both cells at their common seeds; published weights have no seed and are paired with every seed."""
    theirs = {run.spec.seed: (run, value) for run, value in baseline}
    if any(isinstance(run.spec.source, Pretrained) and run.spec.recipe is None for run, _ in baseline):
        return [(one, baseline[0]) for one in ours]
    return [((run, value), theirs[run.spec.seed]) for run, value in ours if run.spec.seed in theirs]


def _expect_same_images(runs: Sequence[Finished]) -> None:
    for run in runs:
        if (found := run.metrics.test_images) != (expected := runs[0].metrics.test_images):
            others = f"expected {expected} as in {runs[0].folder / 'metrics.json'}"
            raise UserError(f"{run.folder / 'metrics.json'}: 'test_images' is {found}, {others}; {AGAIN}")


def _mcnemar(differences: Floats) -> float:
    return mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))


def adjusted(cells: Sequence[MeasuredCell], which: Literal["to_baseline", "to_best"]) -> list[MeasuredCell]:
    """Fill in `p_holm` of one kind of comparison; those that the whole table plans are the family.

    If only those with a result counted, a table in which some are missing would claim more than the complete one.
    """
    cells = list(cells)
    planned = [cell for cell in cells if cell.runs and (cell.baseline if which == "to_baseline" else _competes(cell))]
    leaders = len({cell.column for cell in planned}) if which == "to_best" else 0
    tested = {i: one for i, cell in enumerate(cells) if (one := getattr(cell, which)) and one.interval}
    missing = len(planned) - leaders - len(tested)
    for (i, one), p in zip(tested.items(), holm([one.interval.p for one in tested.values()], missing)):
        cells[i] = dataclasses.replace(cells[i], **{which: dataclasses.replace(one, p_holm=p)})
    return cells


def best(cells: Iterable[MeasuredCell]) -> dict[str, MeasuredCell]:
    """Return the cell with the best mean accuracy of each column among SNNs that are not teachers, by column.

    A column in which one of them lacks a result has no best.
    """
    columns: dict[str, list[MeasuredCell]] = {}
    for cell in filter(_competes, cells):
        columns.setdefault(cell.column, []).append(cell)
    complete = {key: found for key, found in columns.items() if all(cell.state == "measured" for cell in found)}
    return {key: max(found, key=lambda cell: cell.mean or 0.0) for key, found in complete.items()}


def marked(cells: Iterable[MeasuredCell], leaders: Mapping[str, MeasuredCell]) -> list[MeasuredCell]:
    """Set the best of each column in bold, and underline what cannot be told from it; means printed alike are ties."""
    return [_marked(cell, leaders[cell.column]) if cell.column in leaders else cell for cell in cells]


def _marked(cell: MeasuredCell, leader: MeasuredCell) -> MeasuredCell:
    bold = _competes(cell) and fixed(cell.mean or 0.0) == fixed(leader.mean or 0.0)
    p = cell.to_best.p_holm if cell.to_best else None
    return dataclasses.replace(cell, bold=bold, underlined=not bold and p is not None and p >= LEVEL)


def _competes(cell: MeasuredCell) -> bool:
    return cell.competes and cell.metric == "top1"
