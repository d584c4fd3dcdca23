"""Measuring a table: from its plan and a folder of results to the values of every cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from bkdsnn.analysis.energy import Constants
from bkdsnn.config import Network, RunSpec
from bkdsnn.config.catalogue import place_of_table
from bkdsnn.config.declarations import Column, ExtendedTable, MetricName, Row, Scale, cited
from bkdsnn.config.plans import Cell, Plan, command
from bkdsnn.core.errors import UserError
from bkdsnn.core.paired import seeds_needed
from bkdsnn.core.statistics import mean, sample_std
from bkdsnn.report.tables.cells import ColumnModel, MeasuredCell, PairedDifference, Setting, State, TableModel
from bkdsnn.report.tables.comparison import Comparisons, Valued, adjusted, best, difference, marked
from bkdsnn.report.tables.metrics import decimals, measured
from bkdsnn.runs.records import Finished, expect_here, failed, finished
from bkdsnn.runs.schema import AGAIN


def measure(plan: Plan, results: Path, constants: Constants = Constants()) -> TableModel:  # noqa: B008 (immutable)
    """Return the table with all values that `results` (the folder `results/<scale>`) holds so far.

    `constants` are the energies of operations.

    Raises `UserError` for an unreadable file or one of another run, a run on data that differ from those prepared here,
    runs of one column on different data, and a row whose columns disagree on a setting that the table shows.
    """
    table, scale = plan.table, plan.scale
    done = {name: result for name, run in plan.runs().items() if (result := _checked(run, results))}
    teachers = {run.teacher.name for cell in plan.cells for run in cell.runs if run.teacher}
    seeds = max((tuple(run.seed for run in cell.runs) for cell in plan.cells), key=len)
    columns = [_column(plan, column, done) for column in table.columns]
    values = _Values(done, constants)
    cells = adjusted([_cell(plan, cell, values, teachers, results) for cell in plan.cells], "to_baseline")
    return TableModel(
        name=table.name,
        number=table.number,
        title=table.title,
        metric=table.metric,
        scale=scale.name,
        note=scale.note,
        command=_command(plan, seeds),
        comparable=_comparable(scale),
        seeds=seeds,
        groups=table.groups,
        settings=table.settings,
        bold=table.bold,
        columns=tuple(columns),
        cells=_with_decimals(_with_marks(plan, cells, values) if table.bold else cells),
        footnotes=(*table.footnotes, *cited(table.deviations), *_prices(table.columns, constants)),
        base=table.base if isinstance(table, ExtendedTable) else "",
        added=table.added if isinstance(table, ExtendedTable) else (),
    )


def _checked(run: RunSpec, results: Path) -> Finished | None:
    """A run's result, checked to belong to the data and the parents' weights in `results`; None if unfinished."""
    found = finished(run, results)
    if found:
        expect_here(found, results)
    return found


def _prices(columns: Iterable[Column], constants: Constants) -> Iterable[str]:
    """Yield the note on the energy of an operation, if a column shows energies."""
    if {"energy", "strict-energy"} & {column.metric for column in columns}:
        yield f"Energies at {constants.mac_pj:g} pJ a MAC and {constants.ac_pj:g} pJ an AC."


def _command(plan: Plan, seeds: tuple[int, ...]) -> str:
    chosen = None if seeds == plan.scale.seeds else seeds
    return command(plan.table.name, plan.scale.name, plan.neurons, chosen, plan.copies)


def _comparable(scale: Scale) -> bool:
    return not (scale.datasets or scale.networks or scale.recipes or scale.distill)


def _column(plan: Plan, column: Column, done: dict[str, Finished]) -> ColumnModel:
    cells = [cell for cell in plan.cells if cell.column.key == column.key]
    results = [done[run.name] for cell in cells for run in cell.runs if run.name in done]
    _expect_same_data(column, results)
    one = len({cell.column.network for cell in cells}) == 1  # else each row has its own sizes and teachers
    teachers = _other_teachers(cells) if one else []
    data = cells[0].runs[0].dataset
    return ColumnModel(
        key=column.key,
        heading=column.heading,
        architecture=column.network,
        dataset=results[0].metrics.dataset.label if results else data.label or data.name,
        stands_in_for=plan.datasets[column.dataset] if data.name != column.dataset else None,
        parameters=_parameters(_students(cells) if one else [], done),
        paper_parameters_m=column.parameters_m,
        teacher=teachers[0].network.name if teachers else None,
        teacher_parameters=_parameters(teachers, done),
        printed=any(cell.paper is not None for cell in cells),
    )


def _students(cells: Sequence[Cell]) -> list[RunSpec]:
    """The column's runs with its student's network: that of the student's own row, else of the first distilled row."""
    own = [run for cell in cells for run in cell.runs if cell.row.method == cell.column.student]
    runs = [run for cell in cells for run in cell.runs]
    models = [*own, *(run for run in runs if run.teacher)]
    return [run for run in runs if models and _of_one_size(run.network, models[0].network)]


def _of_one_size(first: Network, second: Network) -> bool:
    """Whether the networks are equal except for their time-steps, which do not change the parameter count."""
    return (first.form, first.geometry()) == (second.form, second.geometry())


def _other_teachers(cells: Sequence[Cell]) -> list[RunSpec]:
    """The column's teachers whose network differs from the column's."""
    teachers = ((cell, run.teacher) for cell in cells for run in cell.runs)
    return [teacher for cell, teacher in teachers if teacher and teacher.network.name != cell.column.network]


def _parameters(runs: Iterable[RunSpec], done: dict[str, Finished]) -> int | None:
    return next((done[run.name].metrics.parameters for run in runs if run.name in done), None)


def _expect_same_data(column: Column, results: Sequence[Finished]) -> None:
    for result in results:
        if result.metrics.dataset.digest != results[0].metrics.dataset.digest:
            files = f"{results[0].folder / 'metrics.json'} and {result.folder / 'metrics.json'}"
            raise UserError(f"{files}: column '{column.key}' expects one data set, found two digests; {AGAIN}")


def _settings(plan: Plan, row: Row) -> tuple[Setting, ...]:
    """The values, in this row's runs, of the options that the table shows."""
    return tuple(_setting(plan, row, place) for place in plan.table.settings.values())


def _setting(plan: Plan, row: Row, place: str) -> Setting:
    found = {cell.column.key: _option(cell.runs[0], place) for cell in plan.cells if cell.row.key == row.key}
    first, *others = dict.fromkeys(found.values())
    if others:
        differ = ", ".join(f"{value} in '{column}'" for column, value in found.items())
        raise UserError(
            f"{place_of_table(plan.table.name)}: 'settings' has {place}, so row '{row.key}' must have one "
            f"value of it in all columns, found {differ}; set it in the row, or take it out of 'settings'"
        )
    return first


def _option(run: RunSpec, place: str) -> Setting:
    """The value of `<term>.<option>` in a run, or None if it has no such term."""
    method, option = place.split(".")
    return next((getattr(term, option) for term in run.distill if term.method == method), None)


class _Values:
    """Values of runs by metric; every run is measured once, even if several cells show it."""

    def __init__(self, done: dict[str, Finished], constants: Constants) -> None:
        self.done, self.constants = done, constants
        self._known: dict[tuple[str, str], float | None] = {}
        self._comparisons = Comparisons()

    def compared(self, cell: Cell, other: Cell, relative: bool = False) -> PairedDifference | None:
        """A cell compared with another of its column; None if they have no common seed."""
        return self._comparisons.of(cell.column.metric, relative, self.of(cell), other.row.key, self.of(other))

    def of(self, cell: Cell) -> list[Valued]:
        """The runs of a cell that have a value, each with this value."""
        finished = (self.done[run.name] for run in cell.runs if run.name in self.done)
        return [(run, value) for run in finished if (value := self._value(cell.column.metric, run)) is not None]

    def _value(self, metric: MetricName, run: Finished) -> float | None:
        key = metric, run.spec.name
        if key not in self._known:
            self._known[key] = measured(metric, run, self.constants)
        return self._known[key]


def _cell(plan: Plan, cell: Cell, values: _Values, teachers: set[str], results: Path) -> MeasuredCell:
    found = values.of(cell)
    own, last = [run for run, _ in found], [value for _, value in found]
    baseline = plan.cell(cell.baseline, cell.column.key) if cell.baseline else None
    relative = cell.column.difference == "relative"
    to_baseline = values.compared(cell, baseline, relative) if baseline else None
    paper_delta = _paper_delta(cell, baseline, relative)
    return MeasuredCell(
        group=cell.row.group,
        row=cell.row.key,
        method=cell.row.method,
        label=plan.labels[cell.row.key],
        settings=_settings(plan, cell.row),
        column=cell.column.key,
        metric=cell.column.metric,
        timesteps=cell.runs[0].network.timesteps,
        state=_state(cell.runs, own, results),
        mean=mean(last),
        std=sample_std(last),
        seeds=tuple(result.spec.seed for result in own),
        planned=len(cell.runs),
        best_epoch_mean=mean([result.metrics.top1.best for result in own]) if cell.column.metric == "top1" else None,
        baseline=cell.baseline,
        to_baseline=to_baseline,
        paper=cell.paper,
        paper_delta=paper_delta,
        seeds_needed=_seeds_needed(paper_delta, to_baseline),
        origin=None if cell.paper is None else cell.row.origin,
        competes=cell.runs[0].network.spiking and cell.runs[0].name not in teachers,
        parameters=own[0].metrics.parameters if own else None,
        runs=tuple(run.name for run in cell.runs),
        relative=relative,
    )


def _state(runs: Sequence[RunSpec], own: Sequence[Finished], results: Path) -> State:
    if own:
        return "measured" if len(own) == len(runs) else "partial"
    return "failed" if any(failed(run, results) for run in runs) else "not run"


def _paper_delta(cell: Cell, baseline: Cell | None, relative: bool) -> float | None:
    if baseline is None or cell.paper is None or baseline.paper is None:
        return None
    # The paper's values have two decimals, so this removes nothing but floating-point error.
    return round(difference(cell.paper, baseline.paper, relative), 2)


def _seeds_needed(paper_delta: float | None, measured: PairedDifference | None) -> float | None:
    if paper_delta is None or measured is None or measured.interval is None:
        return None
    return seeds_needed(paper_delta, measured.interval.spread)


def _with_decimals(cells: Iterable[MeasuredCell]) -> tuple[MeasuredCell, ...]:
    """Give all cells of a column the number of decimals that its smallest value needs."""
    cells = list(cells)
    means: dict[str, list[float | None]] = {}
    for cell in cells:
        means.setdefault(cell.column, []).append(cell.mean)
    return tuple(dataclasses.replace(cell, decimals=decimals(cell.metric, means[cell.column])) for cell in cells)


def _with_marks(plan: Plan, cells: Sequence[MeasuredCell], values: _Values) -> list[MeasuredCell]:
    """Compare every cell that competes with the best of its column, and mark both."""
    leaders = best(cells)
    compared = [_with_best(plan, cell, leaders.get(cell.column), values) for cell in cells]
    return marked(adjusted(compared, "to_best"), leaders)


def _with_best(plan: Plan, cell: MeasuredCell, leader: MeasuredCell | None, values: _Values) -> MeasuredCell:
    if leader is None or not cell.competes or cell.row == leader.row:
        return cell
    own, other = (plan.cell(row, cell.column) for row in (cell.row, leader.row))
    return dataclasses.replace(cell, to_best=values.compared(own, other))
