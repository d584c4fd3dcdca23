"""Models of the YAML files in `config/`: methods, tables with their columns and rows, scales. Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from bkdsnn.config import Pretrained, Strict, TaskLoss
from bkdsnn.core.errors import unknown

Keyed = TypeVar("Keyed", "Row", "Column")
Role = Literal["student", "teacher", "conversion", "pretraining"]
Fragment = dict[str, Any]
Terms = dict[str, Fragment]  # options of distillation terms, by term
Deviation = Annotated[str, Field(pattern=r"^D-\d{3}$", description="id of a row of docs/deviations.md")]
MetricName = Literal["top1", "firing-rate", "operations", "energy", "strict-macs", "strict-acs", "strict-energy"]


class MethodEntry(Strict):
    """How runs are trained. `base` names the method that this one extends; `student` means the column's `student`."""

    label: str
    base: str | None = None
    network: Fragment = {}
    timesteps: int | None = Field(default=None, gt=0, description="T where it is not that of the row")
    loss: TaskLoss | None = None
    distill: Terms = {}
    teacher: str | None = Field(default=None, description="method of the run that is imitated")
    source: str | None = Field(default=None, description="method of the run whose weights it begins with")
    recipe: Role | None = Field(default=None, description="the column's recipe for this role; none: evaluate only")


class Subject(Strict):
    """One architecture on one dataset, with its teacher; each field names an entry of another file in `config/`."""

    dataset: str
    network: str
    teacher: str | None = Field(default=None, description="network of the teachers, where it is another")
    student: str = Field(description="method that distilled students extend")
    taught_by: str | None = Field(default=None, description="method of the teachers, where it is not that of the row")
    recipes: dict[Role, str]
    pretrained: Pretrained | None = Field(default=None, description="published teacher weights")
    fine_tune: bool = Field(default=False, description="the teacher is trained from them, instead of being them")


class Column(Subject):
    """A column of a table: one architecture on one dataset, and the metric that the table shows for it."""

    key: str
    heading: tuple[str, ...] = Field(description="one label per header level, outermost first")
    timesteps: dict[Role, int] = Field(default={}, description="T by the role of a run, where it is not the row's")
    metric: MetricName = "top1"
    difference: Literal["absolute", "relative"] = "absolute"
    parameters_m: float | None = Field(default=None, description="millions of parameters that the paper prints")
    distill: Terms = Field(default={}, description="options of distillation terms in this column")
    distill_of: dict[str, Terms] = Field(default={}, description="the same for single methods, by method")


class Row(Strict):
    """One method in all columns; `paper` and `delta_against` have one entry per column."""

    method: str
    key: str = Field(default="", description="tells rows of one method apart; the method where it is left out")
    group: str
    label: str | None = None
    timesteps: int | None = Field(default=None, gt=0, description="T of spiking networks, unless the columns have it")
    paper: tuple[float | None, ...] = Field(default=(), description="left out in rows that are not the paper's")
    delta_against: tuple[str | None, ...] | None = Field(default=None, description="key of the baseline row per column")
    origin: Literal["printed", "quoted", "inferred"] = Field(
        default="printed", description="quoted: the paper takes it from elsewhere; inferred: from a printed difference"
    )
    distill: Terms = {}
    columns: Fragment = Field(default={}, description="fields of the columns that are others in this row")

    @model_validator(mode="before")
    @classmethod
    def _keyed(cls, content: Any) -> Any:
        if isinstance(content, dict) and "key" not in content:
            return {**content, "key": content.get("method", "")}
        return content


class Table(Strict):
    """A table of the paper."""

    name: str
    number: str
    title: str
    metric: str
    groups: dict[str, str]
    settings: dict[str, str] = Field(default={}, description="options shown per row, by heading: <term>.<option>")
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    distill: Terms = Field(default={}, description="options of distillation terms for the whole table")
    bold: bool = Field(default=True, description="whether the best of each column is set in bold")
    footnotes: tuple[str, ...] = ()
    deviations: tuple[Deviation, ...] = Field(default=(), description="what a reader of this table must know")

    @model_validator(mode="after")
    def _aligned(self) -> Table:
        keys = [row.key for row in self.rows]
        for row in self.rows:
            if row.paper or self.number:
                _expect(len(row.paper), len(self.columns), f"row '{row.key}': values in 'paper'")
            _expect_known("group", row.group, self.groups, row.key)
            for baseline in filter(None, row.delta_against or ()):
                _expect_known("delta_against", baseline, keys, row.key)
            if row.delta_against is not None:
                _expect(len(row.delta_against), len(self.columns), f"row '{row.key}': baselines in 'delta_against'")
        if len(set(keys)) != len(keys):
            raise ValueError(f"two rows share a key: {', '.join(keys)}; give one a 'key' of its own")
        for place in self.settings.values():
            if place.count(".") != 1:
                raise ValueError(f"'settings': '{place}' is not <term>.<option>, such as ld.tau")
        return self


class OwnTable(Table):
    """A table of the user's own."""

    number: Literal[""] = ""


class ExtendedTable(OwnTable):
    """A table of the user's own that extends the paper's table with number `base` by the rows `added`."""

    base: str
    added: tuple[str, ...]


class Base(Strict):
    """The part of one of the paper's tables to extend: the whole table, or only these rows and columns (by key)."""

    table: str
    rows: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, content: Any) -> Any:
        return {"table": content} if isinstance(content, str) else content


class Extension(Strict):
    """Rows of the user's own that extend one of the paper's tables."""

    name: str
    extends: Base
    title: str | None = None
    groups: dict[str, str] = {}
    rows: tuple[Row, ...] = Field(min_length=1)
    footnotes: tuple[str, ...] = ()

    def on_top_of(self, table: Table) -> ExtendedTable:
        """Return the table with these rows, each after the last row of its group; an unknown key raises an error."""
        rows = list(_only(table.rows, self.extends.rows, "row"))
        columns = _only(table.columns, self.extends.columns, "column")
        kept = [table.columns.index(column) for column in columns], {row.key for row in (*rows, *self.rows)}
        rows = [_cut(row, *kept) for row in rows]
        for row in self.rows:
            places = [i for i, other in enumerate(rows, 1) if other.group == row.group]
            rows.insert(max(places, default=len(rows)), row)
        whole = {key: getattr(table, key) for key in Table.model_fields if key != "number"}
        return ExtendedTable(
            **whole
            | {"name": self.name, "title": self.title or table.title, "groups": {**table.groups, **self.groups}}
            | {"columns": columns, "rows": rows, "footnotes": (*table.footnotes, *self.footnotes)}
            | {"base": table.number, "added": tuple(row.key for row in self.rows)}
        )


class Overrides(Strict):
    """Replacements for datasets, and for single fields of networks, recipes and distillation terms, by name."""

    datasets: dict[str, str] = {}
    networks: dict[str, Fragment] = {}
    recipes: dict[str, Fragment] = Field(default={}, description="by recipe; '*' applies to all of them first")
    distill: Terms = Field(default={}, description="by term, such as weights for small feature maps")


class Scale(Overrides):
    """A scale: seeds and hardware, and replacements for the paper's data, network widths and recipes."""

    name: str
    note: str = Field(description="the sentence that every caption of this scale carries")
    seeds: tuple[int, ...]
    pretrained: Literal["none", "fine-tuned", "all"] = Field(
        description="which of the published weights that columns name are used: only those to be fine-tuned, or all"
    )
    gpu: bool = Field(default=False, description="whether the workflow asks for a GPU per training")


class Request(Subject):
    """A single run outside the tables, described in a file of its own like a cell of a table."""

    method: str
    student: str = Field(default="", description="method that distilled students extend; the method if left out")
    timesteps: int | dict[Role, int] = Field(description="T of spiking networks, or T by the role of a run")
    seed: int = Field(default=0, ge=0)
    overrides: Overrides = Field(default=Overrides(), description="as in the file of a scale, and over it")


def cited(deviations: Sequence[Deviation]) -> list[str]:
    """Return a list of one note that names the deviations, or an empty list if there are none."""
    return [f"Deviations: {', '.join(deviations)} (docs/deviations.md)."] if deviations else []


def _expect(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise ValueError(f"{what}: found {found}, expected {expected}, one per column")


def _expect_known(key: str, found: str, valid: Iterable[str], row: str) -> None:
    names = list(valid)
    if found not in names:
        raise ValueError(f"row '{row}': '{key}' is '{found}', expected one of: {', '.join(names)}")


def _only(parts: Sequence[Keyed], keys: Sequence[str] | None, what: str) -> Sequence[Keyed]:
    known = {part.key: part for part in parts}
    for key in keys or ():
        if key not in known:
            raise unknown(what, key, known, "'extends'")
    return [part for part in parts if keys is None or part.key in keys]


def _cut(row: Row, columns: Iterable[int], rows: Collection[str]) -> Row:
    """The row reduced to the columns with these indices; a baseline that is not among `rows` is dropped."""
    baselines = row.delta_against and tuple(
        name if name in rows else None for name in (row.delta_against[i] for i in columns)
    )
    return row.model_copy(update={"paper": tuple(row.paper[i] for i in columns), "delta_against": baselines})
