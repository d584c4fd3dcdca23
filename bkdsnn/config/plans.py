"""The result of expanding a table: its cells with their runs, and the command that makes it. Free of torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bkdsnn.config import RunSpec, own
from bkdsnn.config.catalogue import CONFIG, place_of_table
from bkdsnn.config.declarations import Column, Row, Scale, Table

Preset = Literal["reference", "paper-text"]


@dataclass(frozen=True)
class At:
    """A row and a column of a table that need runs, and the file that declares them."""

    table: Table
    row: Row
    column: Column
    file: str

    @classmethod
    def of(cls, table: Table, row: Row, column: Column, config: Path = CONFIG) -> At:
        """Return it for a table in `config` or the user's own folder."""
        return cls(table, row, column, place_of_table(table.name, config))

    @property
    def row_place(self) -> str:
        """The file and key that declare the row."""
        return f"{self.file}, row '{self.row.key}'" if self.row.key else self.file

    def column_place(self, key: str) -> str:
        """Return the file and key that state one field of the column; a row may override it."""
        unchanged = self.column.key and key not in self.row.columns
        return f"{self.file}, column '{self.column.key}'" if unchanged else self.row_place

    def __str__(self) -> str:
        row, column = self.row.key, self.column.key
        return f"{self.table.name}, row '{row}', column '{column}'" if row else self.file


@dataclass(frozen=True)
class Cell:
    """One cell before anything is measured: its runs (one per seed), the paper's value and the baseline's row key."""

    row: Row
    column: Column
    runs: tuple[RunSpec, ...]
    paper: float | None
    baseline: str | None


@dataclass(frozen=True)
class Plan:
    """A table at a scale: its cells, row by row, with their runs.

    `labels` has the label of each row by its key, `datasets` those of the paper's datasets by name. `copies` maps
    datasets of the paper to the ones that the user chose in place of the scale's.
    """

    table: Table
    scale: Scale
    neurons: Preset
    labels: dict[str, str]
    datasets: dict[str, str]
    cells: tuple[Cell, ...]
    copies: Mapping[str, str] = field(default_factory=dict)

    def runs(self) -> dict[str, RunSpec]:
        """Every distinct run that the table needs, by name; teachers and sources come before their dependants."""
        lineage = (run for cell in self.cells for spec in cell.runs for run in spec.lineage())
        return {run.name: run for run in lineage}

    def analysed(self) -> dict[str, RunSpec]:
        """Every run that is also analysed (firing rates, operations, energy), by name."""
        cells = (cell for cell in self.cells if cell.column.metric != "top1")
        return {run.name: run for cell in cells for run in cell.runs}

    def cell(self, row: str, column: str) -> Cell:
        """Return the cell of that row (by key) and column."""
        return next(cell for cell in self.cells if (cell.row.key, cell.column.key) == (row, column))


def command(
    target: str, scale: str, neurons: Preset, seeds: Iterable[int] | None, copies: Mapping[str, str] | None = None
) -> str:
    """Return the shell command that makes a target; `seeds` None means those of the scale."""
    chosen = [] if scale == "demo" else [f"scale={scale}"]
    chosen += [] if seeds is None else [f"'seeds=[{','.join(map(str, seeds))}]'"]
    chosen += [] if neurons == "reference" else [f"neurons={neurons}"]
    chosen += [f"'datasets={{{', '.join(f'{old}: {new}' for old, new in copies.items())}}}'"] if copies else []
    if own.files(f"tables/{target}.yaml", f"figures/{target}.yaml"):
        chosen += [shlex.quote(f"own={own.folder()}")]
    return " ".join([f"snakemake --cores all {target}", *(["--config", *chosen] if chosen else [])])
