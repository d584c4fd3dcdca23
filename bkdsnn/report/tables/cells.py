"""The measured table: all values that a renderer prints, already computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bkdsnn.config.declarations import MetricName
from bkdsnn.core.paired import Interval

State = Literal["measured", "partial", "failed", "not run"]
Origin = Literal["printed", "quoted", "inferred"]
Setting = float | str | bool | None


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of a cell to the cell of another row in its column, over the `seeds` that both have.

    `interval` is None where nothing can be told: one seed, no spread, or missing predictions. `p_holm` is its p-value,
    adjusted within the table. `mcnemar` has the p-value of each pair of networks, one per seed; empty if predictions
    are missing.
    """

    row: str
    difference: float
    seeds: tuple[int, ...]
    interval: Interval | None
    mcnemar: tuple[float, ...]
    p_holm: float | None = None


@dataclass(frozen=True)
class MeasuredCell:
    """One cell. Numbers are in the unit of its metric; None means that there is no such number.

    `seeds` are the seeds with a result; `runs` names all planned runs. `mean` and `std` (sample standard deviation,
    ddof = 1, None for one seed) are over the networks of `seeds` after the last epoch. `baseline` is the key of a row.
    `seeds_needed` are the paired seeds that would find `paper_delta` with 80 % probability; infinite if none would.
    """

    group: str
    row: str  # key of the row; rows may share a method or a label
    method: str
    label: str
    settings: tuple[Setting, ...]  # in the order of the table's settings; None: the row has no such term
    column: str
    metric: MetricName
    timesteps: int
    state: State
    mean: float | None
    std: float | None
    seeds: tuple[int, ...]
    planned: int
    best_epoch_mean: float | None  # mean of the best test accuracies over all epochs (D-148)
    baseline: str | None
    to_baseline: PairedDifference | None
    paper: float | None
    paper_delta: float | None
    seeds_needed: float | None
    origin: Origin | None  # of `paper`: printed, quoted by the paper from elsewhere, inferred from a difference
    competes: bool  # may be marked: an SNN that is not a teacher in this table
    parameters: int | None
    runs: tuple[str, ...]
    to_best: PairedDifference | None = None  # with the best mean of the column, where cells are marked
    bold: bool = False
    underlined: bool = False
    relative: bool = False  # differences are in per cent of the baseline
    decimals: int = 2  # printed decimals of `mean` and `std`


@dataclass(frozen=True)
class ColumnModel:
    """One architecture on one dataset; `parameters` is the measured count of the column's student network.

    `teacher` names the teachers' network if it differs from the column's; `teacher_parameters` is its measured count.
    """

    key: str
    heading: tuple[str, ...]
    architecture: str
    dataset: str  # label of the dataset in use
    stands_in_for: str | None  # label of the paper's dataset, if another one is in use
    parameters: int | None
    paper_parameters_m: float | None  # millions; None: not printed
    teacher: str | None
    teacher_parameters: int | None
    printed: bool  # whether the paper has any value in this column

    @property
    def name(self) -> str:
        """The heading's levels on one line."""
        return " ".join(self.heading)


@dataclass(frozen=True)
class TableModel:
    """A table at a scale; `bold` says whether the best of each column, and what cannot be told from it, are marked.

    `number` is empty for a table of the user's own. `command` is the shell command that makes the table. `comparable`
    says whether data, networks and recipes are the paper's. `settings` maps headings to the options that rows show,
    `<term>.<option>`.
    """

    name: str
    number: str
    title: str
    metric: str
    scale: str
    note: str
    command: str
    comparable: bool
    seeds: tuple[int, ...]
    groups: dict[str, str]
    settings: dict[str, str]
    bold: bool
    columns: tuple[ColumnModel, ...]
    cells: tuple[MeasuredCell, ...]
    footnotes: tuple[str, ...]
    base: str = ""  # number of the paper's table that a table of the user's own extends by the rows `added`
    added: tuple[str, ...] = ()

    def rows(self) -> list[tuple[MeasuredCell, ...]]:
        """Return the cells of each row, in column order."""
        width = len(self.columns)
        return [self.cells[i : i + width] for i in range(0, len(self.cells), width)]
