"""The measured table: everything that a renderer may print, and nothing that it would have to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bkdsnn.config.declarations import MetricName

State = Literal["measured", "partial", "failed", "not run"]
Origin = Literal["printed", "quoted", "inferred"]
Setting = float | str | bool | None


@dataclass(frozen=True)
class MeasuredCell:
    """One cell. Numbers are in the unit of its metric; None stands for "there is no such number".

    `mean` and `std` (sample standard deviation, ddof = 1, None for one seed) are over the networks after the last
    epoch of `seeds`, the seeds that have a result; `runs` names all planned runs. `delta` is the mean of the paired
    per-seed differences to the cell of `baseline`, the key of a row, in the same column, over the seeds that both have.
    """

    group: str
    row: str  # key; several rows may have one method, and one label
    method: str
    label: str
    settings: tuple[Setting, ...]  # of the runs, in the order of the table's; None: the row has no such term
    column: str
    metric: MetricName
    timesteps: int
    state: State
    mean: float | None
    std: float | None
    seeds: tuple[int, ...]
    planned: int
    best_epoch_mean: float | None  # what reporting the best test epoch would have claimed
    baseline: str | None
    delta: float | None
    mcnemar_p: float | None  # of `delta`; None also where predictions are missing
    paper: float | None
    paper_delta: float | None
    origin: Origin | None  # of `paper`: printed, quoted by the paper from elsewhere, inferred from a difference
    competes: bool  # for bold: an SNN that teaches no other of the table
    parameters: int | None
    runs: tuple[str, ...]
    bold: bool = False
    relative: bool = False  # differences: in per cent of the baseline
    decimals: int = 2  # of `mean` and `std` in print


@dataclass(frozen=True)
class ColumnModel:
    """One architecture on one dataset; `parameters` is the measured count of the column's student network.

    `teacher` is the network of the teachers where it is another, `teacher_parameters` its measured count.
    """

    key: str
    heading: tuple[str, ...]
    architecture: str
    dataset: str  # label of the data in use
    stands_in_for: str | None  # the paper's dataset, where the data in use is another
    parameters: int | None
    paper_parameters_m: float | None  # millions; None: not printed
    teacher: str | None
    teacher_parameters: int | None
    printed: bool  # whether the paper has any value in it

    @property
    def name(self) -> str:
        """The heading on one line."""
        return " ".join(self.heading)


@dataclass(frozen=True)
class TableModel:
    """A table at a scale; `bold` says whether it marks the best.

    `number` is empty for a table of the user's own. `command` makes it. `comparable` says whether data, networks and
    recipes are the paper's own. `settings` are the options that each row shows, `<term>.<option>` by heading.
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
    base: str = ""  # number of the paper's table that has all rows but those `added`; a table of the user's own
    added: tuple[str, ...] = ()

    def rows(self) -> list[tuple[MeasuredCell, ...]]:
        """Return the cells of each row, in column order."""
        width = len(self.columns)
        return [self.cells[i : i + width] for i in range(0, len(self.cells), width)]
