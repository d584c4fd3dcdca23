"""`config/notation.yaml`: entries of table 1, and the run that they are checked on. Pure, and free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from bkdsnn.config import BKD, RunSpec, Strict
from bkdsnn.config.catalogue import CONFIG, load, load_table, table_names
from bkdsnn.config.paper import Expansion, command
from bkdsnn.core.errors import UserError, unknown

NAME = "table1"
Axes = tuple[str | int, ...]


class Cell(Strict):
    """The run that is looked into: a row and a column of a table."""

    table: str
    column: str
    row: str


class Dimension(Strict):
    """The name of an axis."""

    latex: str
    description: str


class Entry(Strict):
    """One line of the table. `key` says which quantity of the run it is; several symbols may share a line."""

    key: str
    symbol: str
    latex: str
    description: str
    code: str = Field(pattern=r"^(bkdsnn|spec)(\.\w+)+$", description="name to import, or place in the run's spec")
    shape: Axes = Field(default=(), description="names of dimensions, or lengths; none for a number")
    takes: Axes = Field(default=(), description="the same of what a module is fed with")

    @property
    def symbols(self) -> dict[str, str]:
        """Its symbols, each with its LaTeX."""
        return dict(zip(self.symbol.split(", "), self.latex.split(", "), strict=True))

    @model_validator(mode="after")
    def _as_many(self) -> Entry:
        found, expected = (text.count(", ") + 1 for text in (self.latex, self.symbol))
        if found != expected:
            raise ValueError(f"'latex' has {found} symbols and 'symbol' {expected}, expected one for one")
        return self


class Notation(Strict):
    """The table before anything is checked."""

    name: str
    number: str
    title: str
    run: Cell
    dimensions: dict[str, Dimension]
    entries: tuple[Entry, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Notation:
        for key, times in Counter(entry.key for entry in self.entries).items():
            if times > 1:
                raise ValueError(f"{times} entries have the key '{key}', expected one")
        for entry in self.entries:
            for axis in {*entry.takes, *entry.shape} - {*self.dimensions}:
                if isinstance(axis, str):
                    known = ", ".join(self.dimensions)
                    raise ValueError(f"entry '{entry.key}' has an axis '{axis}', expected one of: {known}")
        axes = {axis for entry in self.entries for axis in (*entry.takes, *entry.shape)}
        if idle := [name for name in self.dimensions if name not in axes]:
            raise ValueError(f"no entry has an axis '{idle[0]}', expected one: leave it out of 'dimensions'")
        return self

    @property
    def symbols(self) -> dict[str, str]:
        """The symbols of all entries, each with its LaTeX."""
        return {symbol: latex for entry in self.entries for symbol, latex in entry.symbols.items()}


@dataclass(frozen=True)
class NotationPlan:
    """The table at a scale, with the run to look into; `stands_in_for` is the paper's data where that in use is other.

    Making it needs that run, its teacher (`files_of`), and the manifest of its data.
    """

    notation: Notation
    spec: RunSpec
    scale: str
    note: str
    command: str
    data: str
    stands_in_for: str | None

    def runs(self) -> dict[str, RunSpec]:
        """The run and its teacher, by name."""
        return {run.name: run for run in (self.spec.teacher, self.spec) if run}


def load_notation(config: Path = CONFIG) -> Notation:
    """Read `config/notation.yaml`; a mistake raises `UserError`."""
    return load(Notation, config / "notation.yaml", NAME)


def plan_notation(expansion: Expansion, notation: Notation, seeds: Iterable[int] | None = None) -> NotationPlan:
    """Expand the table at a scale; the run is that of the first of `seeds`, or of the scale's own.

    An unknown table, row or column raises `UserError`, and so does a run without the terms that have the notation.
    """
    place = notation.run
    _expect("table", place.table, table_names())
    table = load_table(place.table)
    _expect(f"row of '{table.name}'", place.row, [row.key for row in table.rows])
    _expect(f"column of '{table.name}'", place.column, [column.key for column in table.columns])
    chosen = None if seeds is None else tuple(seeds)
    plan = expansion.plan(table, chosen)
    cell = plan.cell(place.row, place.column)
    spec = cell.runs[0]
    _check_terms(spec)
    wanted = cell.column.dataset
    return NotationPlan(
        notation=notation,
        spec=spec,
        scale=expansion.scale.name,
        note=expansion.scale.note.strip(),
        command=command(NAME, expansion.scale.name, expansion.preset, chosen, expansion.copies),
        data=spec.dataset.label or spec.dataset.name,
        stands_in_for=None if spec.dataset.name == wanted else plan.datasets[wanted],
    )


def _expect(kind: str, found: str, valid: Iterable[str]) -> None:
    names = list(valid)
    if found not in names:
        raise unknown(kind, found, names, "config/notation.yaml")


def _check_terms(spec: RunSpec) -> None:
    terms = {term.method: term for term in spec.distill}
    bkd = terms.get("bkd")
    if not isinstance(bkd, BKD) or bkd.target != "map" or bkd.swapped or "ld" not in terms:
        found = ", ".join(terms) or "none"
        raise UserError(
            f"config/notation.yaml: 'run' has the terms {found}; expected 'ld', and 'bkd' with 'target: map' and not "
            "'swapped', for only they have all that table 1 names; choose a row such as 'bkdsnn'"
        )
