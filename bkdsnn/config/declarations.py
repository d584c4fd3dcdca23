"""Models of the YAML files in `config/`: methods, tables with their columns and rows, scales. Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from bkdsnn.config import Pretrained, Strict, TaskLoss
from bkdsnn.config.losses import TERMS
from bkdsnn.core.errors import unknown

Keyed = TypeVar("Keyed", "Row", "Column")
Role = Literal["student", "teacher", "conversion", "pretraining"]
Fragment = dict[str, Any]


class _Options:
    """Adds the options of the project's own distillation terms to a JSON schema, so that editors explain these too."""

    @staticmethod
    def __get_pydantic_json_schema__(core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        terms = {name: term.model_json_schema() for name, term in TERMS.items()}
        for term in terms.values():
            del term["properties"]["method"]
            term["required"] = []  # a layer may set a single option
        return {**handler(core), "properties": terms}


Terms = Annotated[dict[str, Fragment], _Options]  # options of distillation terms, by term
Deviation = Annotated[str, Field(pattern=r"^D-\d{3}$", description="id of a row of docs/deviations.md")]
MetricName = Literal["top1", "firing-rate", "operations", "energy", "strict-macs", "strict-acs", "strict-energy"]


class MethodEntry(Strict):
    """How runs are trained."""

    label: str = Field(description="the name that tables print, unless a row has its own")
    base: str | None = Field(default=None, description="method that this one extends; student: the column's 'student'")
    network: Fragment = Field(default={}, description="fields of the network that this method sets")
    timesteps: int | None = Field(default=None, gt=0, description="T where it is not that of the row")
    loss: TaskLoss | None = Field(default=None, description="loss between logits and labels; none: cross-entropy")
    distill: Terms = Field(default={}, description="distillation terms, each with its options; see docs/methods.md")
    teacher: str | None = Field(default=None, description="method of the run that the student imitates")
    source: str | None = Field(default=None, description="method of the run whose weights it begins with")
    recipe: Role | None = Field(default=None, description="the column's recipe for this role; none: evaluate only")


class Subject(Strict):
    """One architecture on one dataset, with its teacher; each field names an entry of another file in `config/`."""

    dataset: str = Field(description="entry of datasets.yaml")
    network: str = Field(description="entry of networks.yaml")
    teacher: str | None = Field(default=None, description="network of the teachers, where it is another")
    student: str = Field(description="method that distilled students extend")
    taught_by: str | None = Field(default=None, description="method of the teachers, where it is not that of the row")
    recipes: dict[Role, str] = Field(description="entries of the files in recipes/, by the role of a run")
    pretrained: Pretrained | None = Field(default=None, description="published teacher weights")
    fine_tune: bool = Field(default=False, description="the teacher is trained from them, instead of being them")


class Column(Subject):
    """A column of a table: one architecture on one dataset, and the metric that the table shows for it."""

    key: str = Field(description="name of the column on the command line and in other files")
    heading: tuple[str, ...] = Field(description="one label per header level, outermost first")
    timesteps: dict[Role, int] = Field(default={}, description="T by the role of a run, where it is not the row's")
    metric: MetricName = Field(default="top1", description="what is measured on the finished runs of this column")
    difference: Literal["absolute", "relative"] = Field(
        default="absolute", description="difference to the baseline row: in the metric's unit, or in per cent of it"
    )
    parameters_m: float | None = Field(default=None, description="millions of parameters that the paper prints")
    distill: Terms = Field(default={}, description="options of distillation terms in this column")
    distill_of: dict[str, Terms] = Field(default={}, description="the same for single methods, by method")


class Row(Strict):
    """One method in all columns."""

    method: str = Field(description="entry of methods.yaml")
    key: str = Field(default="", description="tells rows of one method apart; the method where it is left out")
    group: str = Field(description="key of the group, in 'groups' of the table, that the row belongs to")
    label: str | None = Field(default=None, description="the name that the row prints; none: the method's label")
    timesteps: int | None = Field(default=None, gt=0, description="T of spiking networks, unless the columns have it")
    paper: tuple[float | None, ...] = Field(
        default=(), description="values that the paper prints, one per column; left out in rows of the user's own"
    )
    delta_against: tuple[str | None, ...] | None = Field(
        default=None, description="keys of the baseline rows that it is compared with, one per column; null: none"
    )
    origin: Literal["printed", "quoted", "inferred"] = Field(
        default="printed", description="quoted: the paper takes it from elsewhere; inferred: from a printed difference"
    )
    distill: Terms = Field(default={}, description="options of distillation terms in this row")
    columns: Fragment = Field(default={}, description="fields of the columns that are others in this row")

    @model_validator(mode="before")
    @classmethod
    def _keyed(cls, content: Any) -> Any:
        if isinstance(content, dict) and "key" not in content:
            return {**content, "key": content.get("method", "")}
        return content


class Table(Strict):
    """A table of the paper."""

    name: str = Field(description="name of the table's file")
    number: str = Field(description="number of the table in the paper, such as 2c")
    title: str = Field(description="subject of the table, for its caption")
    metric: str = Field(description="what the table shows, with its unit, for its caption")
    groups: dict[str, str] = Field(description="labels of the groups of rows, by key")
    settings: dict[str, str] = Field(default={}, description="options shown per row, by heading: <term>.<option>")
    columns: tuple[Column, ...] = Field(description="architectures on datasets, from left to right")
    rows: tuple[Row, ...] = Field(description="methods, from top to bottom")
    distill: Terms = Field(default={}, description="options of distillation terms for the whole table")
    bold: bool = Field(default=True, description="whether the best of each column is set in bold")
    footnotes: tuple[str, ...] = Field(default=(), description="sentences below the table")
    deviations: tuple[Deviation, ...] = Field(default=(), description="rows of docs/deviations.md to cite")

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

    number: Literal[""] = Field(default="", description="always empty: the paper has no such table")


class ExtendedTable(OwnTable):
    """A table of the user's own that extends one of the paper's tables."""

    base: str = Field(description="number of the paper's table")
    added: tuple[str, ...] = Field(description="keys of the rows that are the user's own")


class Base(Strict):
    """The part of one of the paper's tables to extend: the whole table, or only these rows and columns (by key)."""

    table: str = Field(description="name of the paper's table, such as table2c")
    rows: tuple[str, ...] | None = Field(default=None, description="keys of the rows to keep; none: all")
    columns: tuple[str, ...] | None = Field(default=None, description="keys of the columns to keep; none: all")

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, content: Any) -> Any:
        return {"table": content} if isinstance(content, str) else content


class Extension(Strict):
    """Rows of the user's own that extend one of the paper's tables."""

    name: str = Field(description="name of the table's file")
    extends: Base = Field(description="name of the table, or a mapping that also selects rows and columns")
    title: str | None = Field(default=None, description="subject of the table; none: that of the paper's table")
    groups: dict[str, str] = Field(default={}, description="labels of further groups of rows, by key")
    rows: tuple[Row, ...] = Field(min_length=1, description="rows to add, each after the last row of its group")
    footnotes: tuple[str, ...] = Field(default=(), description="sentences below the table, after the paper table's")

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

    datasets: dict[str, str] = Field(default={}, description="entries of datasets.yaml, by the dataset to replace")
    networks: dict[str, Fragment] = Field(default={}, description="fields to replace, by network")
    recipes: dict[str, Fragment] = Field(
        default={}, description="fields to replace, by recipe; '*' applies to all of them first"
    )
    distill: Terms = Field(default={}, description="options to replace, by distillation term")


class Scale(Overrides):
    """A scale: seeds and hardware, and replacements for the paper's data, network widths and recipes."""

    name: str = Field(description="name of the scale's file")
    note: str = Field(description="the sentence that every caption of this scale carries")
    seeds: tuple[int, ...] = Field(description="one run per seed; tables show mean and standard deviation")
    pretrained: Literal["none", "fine-tuned", "all"] = Field(
        description="which of the published weights that columns name are used: only those to be fine-tuned, or all"
    )
    gpu: bool = Field(default=False, description="whether the workflow asks for a GPU per training")


class Request(Subject):
    """A single run outside the tables, described in a file of its own like a cell of a table."""

    method: str = Field(description="entry of methods.yaml")
    student: str = Field(default="", description="method that distilled students extend; the method if left out")
    timesteps: int | dict[Role, int] = Field(description="T of spiking networks, or T by the role of a run")
    seed: int = Field(default=0, ge=0, description="seed of all random streams")
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
