"""What tables expand to: cells with their runs, plans of them, and the command that makes each. Free of torch."""

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
    """Where runs are asked for: a row and a column of a table, and the file that states them."""

    table: Table
    row: Row
    column: Column
    file: str

    @classmethod
    def of(cls, table: Table, row: Row, column: Column, config: Path = CONFIG) -> At:
        """Return that of a table in `config` or the user's own folder."""
        return cls(table, row, column, place_of_table(table.name, config))

    @property
    def row_place(self) -> str:
        """The place of the row."""
        return f"{self.file}, row '{self.row.key}'" if self.row.key else self.file

    def column_place(self, key: str) -> str:
        """Return the place of one key of the column, which the row may have replaced."""
        unchanged = self.column.key and key not in self.row.columns
        return f"{self.file}, column '{self.column.key}'" if unchanged else self.row_place

    def __str__(self) -> str:
        row, column = self.row.key, self.column.key
        return f"{self.table.name}, row '{row}', column '{column}'" if row else self.file


@dataclass(frozen=True)
class Cell:
    """One cell before anything is measured: its runs (one per seed) and what the paper says."""

    row: Row
    column: Column
    runs: tuple[RunSpec, ...]
    paper: float | None
    baseline: str | None


@dataclass(frozen=True)
class Plan:
    """A table at a scale, every cell with its runs, row by row; `labels` and `datasets` name its methods and data.

    `copies` are the datasets, by those of the paper, that were asked for in place of the scale's.
    """

    table: Table
    scale: Scale
    neurons: Preset
    labels: dict[str, str]
    datasets: dict[str, str]
    cells: tuple[Cell, ...]
    copies: Mapping[str, str] = field(default_factory=dict)

    def runs(self) -> dict[str, RunSpec]:
        """Every distinct run that the table needs, ancestors first, by name."""
        lineage = (run for cell in self.cells for spec in cell.runs for run in spec.lineage())
        return {run.name: run for run in lineage}

    def analysed(self) -> dict[str, RunSpec]:
        """Every run of which more is measured than its accuracy, by name."""
        cells = (cell for cell in self.cells if cell.column.metric != "top1")
        return {run.name: run for cell in cells for run in cell.runs}

    def cell(self, row: str, column: str) -> Cell:
        """Return the cell of that row (by key) and column."""
        return next(cell for cell in self.cells if (cell.row.key, cell.column.key) == (row, column))


def command(
    target: str, scale: str, neurons: Preset, seeds: Iterable[int] | None, copies: Mapping[str, str] | None = None
) -> str:
    """Return the shell command that makes a target; `seeds` are None where they are those of the scale."""
    chosen = [] if scale == "demo" else [f"scale={scale}"]
    chosen += [] if seeds is None else [f"'seeds=[{','.join(map(str, seeds))}]'"]
    chosen += [] if neurons == "reference" else [f"neurons={neurons}"]
    chosen += [f"'datasets={{{', '.join(f'{old}: {new}' for old, new in copies.items())}}}'"] if copies else []
    if own.files(f"tables/{target}.yaml", f"figures/{target}.yaml"):
        chosen += [shlex.quote(f"own={own.folder()}")]
    return " ".join([f"snakemake --cores all {target}", *(["--config", *chosen] if chosen else [])])
