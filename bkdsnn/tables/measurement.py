"""From a plan and a folder of results to the measured table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from bkdsnn.declarations import Column, Row, Scale
from bkdsnn.errors import UserError
from bkdsnn.paper import Cell, Plan, command
from bkdsnn.spec import Network, RunSpec
from bkdsnn.tables.cells import ColumnModel, MeasuredCell, Setting, State, TableModel
from bkdsnn.tables.runs import AGAIN, Finished, failed, finished
from bkdsnn.tables.statistics import mcnemar, mean, sample_std
from bkdsnn.tables.wording import fixed

Pair = tuple[Finished, Finished]


def measure(plan: Plan, results: Path) -> TableModel:
    """Return the table with everything that `results` (the folder `results/<scale>`) holds for it.

    A file of another run, an unreadable one, one column measured on two data sets, or a row whose columns disagree on
    a setting that the table shows, raises `UserError`.
    """
    table, scale = plan.table, plan.scale
    done = {name: result for name, run in plan.runs().items() if (result := finished(run, results))}
    seeds = max((tuple(run.seed for run in cell.runs) for cell in plan.cells), key=len)
    columns = [_column(plan, column, done) for column in table.columns]
    cells = [_cell(plan, cell, done, results) for cell in plan.cells]
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
        columns=tuple(columns),
        cells=_with_best_in_bold(cells),
        footnotes=table.footnotes,
    )


def _command(plan: Plan, seeds: tuple[int, ...]) -> str:
    own = plan.scale.seeds_for(plan.table.name)
    return command(plan.table.name, plan.scale.name, plan.neurons, None if seeds == own else seeds)


def _comparable(scale: Scale) -> bool:
    return not (scale.datasets or scale.networks or scale.recipes or scale.distill)


def _column(plan: Plan, column: Column, done: dict[str, Finished]) -> ColumnModel:
    cells = [cell for cell in plan.cells if cell.column.key == column.key]
    results = [done[run.name] for cell in cells for run in cell.runs if run.name in done]
    _expect_same_data(column, results)
    teachers = _other_teachers(cells)
    data = cells[0].runs[0].dataset
    return ColumnModel(
        key=column.key,
        heading=column.heading,
        architecture=column.network,
        dataset=results[0].metrics.dataset.label if results else data.label or data.name,
        stands_in_for=plan.datasets[column.dataset] if data.name != column.dataset else None,
        parameters=_parameters(_students(cells), done),
        paper_parameters_m=column.parameters_m,
        teacher=teachers[0].network.name if teachers else None,
        teacher_parameters=_parameters(teachers, done),
    )


def _students(cells: Sequence[Cell]) -> list[RunSpec]:
    """The column's runs with the network of its student: that of its own row, or else of the first distilled one."""
    own = [run for cell in cells for run in cell.runs if cell.row.method == cell.column.student]
    runs = [run for cell in cells for run in cell.runs]
    models = [*own, *(run for run in runs if run.teacher)]
    return [run for run in runs if models and _of_one_size(run.network, models[0].network)]


def _of_one_size(first: Network, second: Network) -> bool:
    """Whether the networks differ at most in their time-steps, which cost no parameters."""
    return (first.form, first.geometry()) == (second.form, second.geometry())


def _other_teachers(cells: Sequence[Cell]) -> list[RunSpec]:
    """The teachers of the column whose network is not the column's own."""
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
    """The options that the table shows, as the runs of the row have them."""
    return tuple(_setting(plan, row, place) for place in plan.table.settings.values())


def _setting(plan: Plan, row: Row, place: str) -> Setting:
    found = {cell.column.key: _option(cell.runs[0], place) for cell in plan.cells if cell.row.key == row.key}
    first, *others = dict.fromkeys(found.values())
    if others:
        differ = ", ".join(f"{value} in '{column}'" for column, value in found.items())
        raise UserError(
            f"config/paper/{plan.table.name}.yaml: 'settings' has {place}, so row '{row.key}' must have one "
            f"value of it in all columns, found {differ}; set it in the row, or take it out of 'settings'"
        )
    return first


def _option(run: RunSpec, place: str) -> Setting:
    """The value of `<term>.<option>` in a run, None if it has no such term."""
    method, option = place.split(".")
    return next((getattr(term, option) for term in run.distill if term.method == method), None)


def _cell(plan: Plan, cell: Cell, done: dict[str, Finished], results: Path) -> MeasuredCell:
    own = [done[run.name] for run in cell.runs if run.name in done]
    last = [result.metrics.top1.last for result in own]
    baseline = plan.cell(cell.baseline, cell.column.key) if cell.baseline else None
    pairs = _pairs(cell, baseline, done) if baseline else []
    return MeasuredCell(
        group=cell.row.group,
        row=cell.row.key,
        method=cell.row.method,
        label=plan.labels[cell.row.key],
        settings=_settings(plan, cell.row),
        column=cell.column.key,
        timesteps=cell.runs[0].network.timesteps,
        state=_state(cell.runs, own, results),
        mean=mean(last),
        std=sample_std(last),
        seeds=tuple(result.spec.seed for result in own),
        planned=len(cell.runs),
        best_epoch_mean=mean([result.metrics.top1.best for result in own]),
        baseline=cell.baseline,
        delta=mean([ours.metrics.top1.last - theirs.metrics.top1.last for ours, theirs in pairs]),
        mcnemar_p=_significance(pairs),
        paper=cell.paper,
        paper_delta=_paper_delta(cell, baseline),
        origin=None if cell.paper is None else cell.row.origin,
        competes=cell.runs[0].network.spiking and cell.runs[0] not in _teachers(plan),
        parameters=own[0].metrics.parameters if own else None,
        runs=tuple(run.name for run in cell.runs),
    )


def _teachers(plan: Plan) -> list[RunSpec]:
    """The runs that others of the table imitate."""
    return [run.teacher for cell in plan.cells for run in cell.runs if run.teacher]


def _state(runs: Sequence[RunSpec], own: Sequence[Finished], results: Path) -> State:
    if own:
        return "measured" if len(own) == len(runs) else "partial"
    return "failed" if any(failed(run, results) for run in runs) else "not run"


def _pairs(cell: Cell, baseline: Cell, done: dict[str, Finished]) -> list[Pair]:
    """Results of both cells at the seeds that both have."""
    theirs = {run.seed: done[run.name] for run in baseline.runs if run.name in done}
    return [(done[run.name], theirs[run.seed]) for run in cell.runs if run.name in done and run.seed in theirs]


def _significance(pairs: Iterable[Pair]) -> float | None:
    """P-value of the exact McNemar test with the counts of all seeds added up."""
    only_ours = only_theirs = 0
    kept = [(ours.correct(), theirs.correct()) for ours, theirs in pairs]
    for ours, theirs in kept:
        if ours is None or theirs is None:
            return None
        only_ours += int((ours & ~theirs).sum())
        only_theirs += int((theirs & ~ours).sum())
    return mcnemar(only_ours, only_theirs) if kept else None


def _paper_delta(cell: Cell, baseline: Cell | None) -> float | None:
    if baseline is None or cell.paper is None or baseline.paper is None:
        return None
    return round(cell.paper - baseline.paper, 2)  # of values with two decimals: drops only binary noise


def _with_best_in_bold(cells: Iterable[MeasuredCell]) -> tuple[MeasuredCell, ...]:
    """Mark the best mean of each column among SNNs that teach no other; means that print alike are ties."""
    cells = list(cells)
    best: dict[str, float] = {}
    for cell in cells:
        if cell.competes and cell.mean is not None:
            best[cell.column] = max(cell.mean, best.get(cell.column, cell.mean))
    return tuple(dataclasses.replace(cell, bold=_is_best(cell, best.get(cell.column))) for cell in cells)


def _is_best(cell: MeasuredCell, best: float | None) -> bool:
    if cell.mean is None or best is None:
        return False
    return cell.competes and fixed(cell.mean) == fixed(best)
