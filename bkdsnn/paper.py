"""The paper as data: tables declared in YAML, expanded for a scale into run specs. Pure, and free of torch.

config/paper/table2c.yaml --plan(table, scale, seeds)--> Plan of cells, each with its run specs
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from bkdsnn.errors import UserError, explain, suggest, unknown
from bkdsnn.spec import (
    RUN_NAME,
    Dataset,
    Neuron,
    Pretrained,
    Quantised,
    Recipe,
    ResNet,
    RunSpec,
    Strict,
    TaskLoss,
    Term,
)

CONFIG = Path(__file__).resolve().parents[1] / "config"

Preset = Literal["reference", "paper-text"]
Role = Literal["student", "teacher", "conversion"]
Fragment = dict[str, Any]
TERMS = {term.model_fields["method"].default for term in get_args(get_args(Term)[0])}
M = TypeVar("M", bound=Strict)


class Method(Strict):
    """How the runs of one row are made. `base` names the method it extends; `student` is the column's own student."""

    label: str
    base: str | None = None
    network: Fragment = {}
    loss: TaskLoss | None = None
    distill: dict[str, Fragment] = {}
    teacher: str | None = Field(default=None, description="method of the run that is imitated")
    source: str | None = Field(default=None, description="method of the run whose weights are converted")
    recipe: Role | None = Field(default=None, description="the column's recipe for this role; none: evaluate only")


class Column(Strict):
    """One architecture on one dataset."""

    key: str
    heading: tuple[str, ...] = Field(description="one label per header level, outermost first")
    dataset: str
    network: str
    student: str = Field(description="method that distilled students extend")
    recipes: dict[Role, str]
    pretrained: Pretrained | None = Field(default=None, description="published teacher weights")
    parameters_m: float = Field(description="millions of parameters that the paper prints")


class Row(Strict):
    """One method over all columns; `paper` and `delta_against` are aligned with the columns."""

    method: str
    group: str
    label: str | None = None
    timesteps: int = Field(gt=0, description="T of spiking networks; an ANN has none")
    paper: tuple[float | None, ...]
    delta_against: tuple[str, ...] | None = Field(default=None, description="baseline row per column")
    quoted: bool = Field(default=False, description="the paper takes these values from elsewhere")
    distill: dict[str, Fragment] = {}


class Table(Strict):
    """A table of the paper."""

    name: str
    number: str
    title: str
    metric: str
    groups: dict[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    distill: dict[str, Fragment] = Field(default={}, description="options of distillation terms for the whole table")
    footnotes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _aligned(self) -> Table:
        methods = [row.method for row in self.rows]
        for row in self.rows:
            _expect(len(row.paper), len(self.columns), f"row '{row.method}': values in 'paper'")
            _expect_known("group", row.group, self.groups, row.method)
            for baseline in row.delta_against or ():
                _expect_known("delta_against", baseline, methods, row.method)
            if row.delta_against is not None:
                _expect(len(row.delta_against), len(self.columns), f"row '{row.method}': baselines in 'delta_against'")
        if len(set(methods)) != len(methods):
            raise ValueError(f"two rows share a method: {', '.join(methods)}")
        return self


class Scale(Strict):
    """What a scale puts in place of the paper's data, widths and recipes."""

    name: str
    note: str = Field(description="the sentence that every caption of this scale carries")
    seeds: tuple[int, ...]
    pretrained: bool = Field(description="teachers come with published weights where a column names some")
    datasets: dict[str, str] = {}
    networks: dict[str, Fragment] = {}
    recipes: dict[str, Fragment] = Field(default={}, description="by recipe; '*' applies to all of them first")
    distill: dict[str, Fragment] = Field(default={}, description="by term, such as weights for small feature maps")
    gpu: bool = Field(default=False, description="whether the workflow asks for a GPU per training")


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
    """A table at a scale, every cell with its runs, row by row; `labels` and `datasets` name its methods and data."""

    table: Table
    scale: Scale
    neurons: Preset
    labels: dict[str, str]
    datasets: dict[str, str]
    cells: tuple[Cell, ...]

    def runs(self) -> dict[str, RunSpec]:
        """Every distinct run that the table needs, ancestors first, by name."""
        lineage = (run for cell in self.cells for spec in cell.runs for run in spec.lineage())
        return {run.name: run for run in lineage}

    def cell(self, method: str, column: str) -> Cell:
        """Return the cell of that row and column."""
        return next(cell for cell in self.cells if (cell.row.method, cell.column.key) == (method, column))


def table_names(config: Path = CONFIG) -> list[str]:
    """Names of the tables that can be made, in the paper's order."""
    return sorted(path.stem for path in (config / "paper").glob("*.yaml"))


def scale_names(config: Path = CONFIG) -> list[str]:
    """Names of the scales."""
    return sorted(path.stem for path in (config / "scales").glob("*.yaml"))


def load_table(name: str, config: Path = CONFIG) -> Table:
    """Read `config/paper/<name>.yaml`; an unknown name or key raises `UserError`."""
    if name not in table_names(config):
        raise unknown("table", name, table_names(config))
    return _parse(Table, {"name": name, **_read(config / "paper" / f"{name}.yaml")}, f"config/paper/{name}.yaml")


def load_scale(name: str, config: Path = CONFIG) -> Scale:
    """Read `config/scales/<name>.yaml`; an unknown name or key raises `UserError`."""
    if name not in scale_names(config):
        raise unknown("scale", name, scale_names(config))
    return _parse(Scale, {"name": name, **_read(config / "scales" / f"{name}.yaml")}, f"config/scales/{name}.yaml")


def plan(table: str, scale: str, *, seeds: Iterable[int] | None = None, neurons: Preset = "reference") -> Plan:
    """Expand a table at a scale. `seeds` replaces the scale's own; none at all raises `UserError`."""
    return Expansion(scale, neurons=neurons).plan(load_table(table), seeds)


def find_run(name: str, scale: str, config: Path = CONFIG) -> RunSpec:
    """Return the spec behind a run name, whatever its seed and neurons; an unknown name raises `UserError`."""
    match = RUN_NAME.match(name)
    if match is None:
        raise UserError(f"'{name}' is not a run name; expected <dataset>-<network>-<method>-t<T>-s<seed>-<10 digits>")
    runs: dict[str, RunSpec] = {}
    for preset in get_args(Preset):
        runs |= all_runs(scale, seeds=[int(match["seed"])], neurons=preset, config=config)
        if name in runs:
            return runs[name]
    known = f"`python -m bkdsnn plan <table> --scale {scale}` lists the runs of a table"
    raise UserError(f"unknown run '{name}' in scale '{scale}'{suggest(name, runs)}; {known}")


def all_runs(
    scale: str, *, seeds: Iterable[int] | None = None, neurons: Preset = "reference", config: Path = CONFIG
) -> dict[str, RunSpec]:
    """Every distinct run of every table at a scale, by name."""
    expansion = Expansion(scale, neurons=neurons, config=config)
    seeds = None if seeds is None else list(seeds)
    plans = (expansion.plan(load_table(table, config), seeds) for table in table_names(config))
    return {name: run for one in plans for name, run in one.runs().items()}


def published_weights(config: Path = CONFIG) -> list[Pretrained]:
    """Every published file of weights that some column names."""
    columns = (column for table in table_names(config) for column in load_table(table, config).columns)
    return [column.pretrained for column in columns if column.pretrained]


class Expansion:
    """Catalogues of one scale, and the rules that turn a cell into run specs."""

    def __init__(self, scale: str, *, neurons: Preset = "reference", config: Path = CONFIG) -> None:
        self.scale = load_scale(scale, config)
        self.preset = neurons
        if neurons == "paper-text":
            note = f"{self.scale.note.strip()} Neurons are those of the paper's text: IF with a sigmoid surrogate."
            self.scale = self.scale.model_copy(update={"note": note})
        self.methods = _catalogue(Method, config / "methods.yaml")
        self.neurons = _catalogue(Neuron, config / "neurons.yaml")
        self.datasets = _catalogue(Dataset, config / "datasets.yaml", named=True)
        self.networks = _read(config / "networks.yaml")
        files = sorted((config / "recipes").glob("*.yaml"))
        self.recipes = {name: recipe for path in files for name, recipe in _catalogue(Recipe, path).items()}
        self.quantised = _catalogue(Quantised, config / "quantised.yaml")
        self._check_scale()

    def _check_scale(self) -> None:
        """Refuse overrides of things that do not exist: they would be ignored in silence."""
        where = f"config/scales/{self.scale.name}.yaml"
        _all_known("dataset", self.scale.datasets, self.datasets, where)
        _all_known("network", self.scale.networks, self.networks, where)
        _all_known("recipe", self.scale.recipes, {"*", *self.recipes}, where)
        _all_known("term", self.scale.distill, TERMS, where)

    def plan(self, table: Table, seeds: Iterable[int] | None = None) -> Plan:
        """Return the plan of a table; see `paper.plan`."""
        chosen = tuple(self.scale.seeds if seeds is None else seeds)
        if not chosen:
            raise UserError("'seeds' is empty; give at least one, such as seeds=[0]")
        for layer in (table.distill, *(row.distill for row in table.rows)):
            _all_known("term", layer, TERMS, f"config/paper/{table.name}.yaml")
        cells = [self._cell(table, row, i, chosen) for row in table.rows for i in range(len(table.columns))]
        labels = {row.method: row.label or self._method(row.method).label for row in table.rows}
        datasets = {column.dataset: self.datasets[column.dataset].label for column in table.columns}
        return Plan(table, self.scale, self.preset, labels, datasets, tuple(cells))

    def _cell(self, table: Table, row: Row, index: int, seeds: tuple[int, ...]) -> Cell:
        column = table.columns[index]
        runs = {run.name: run for run in (self.run(row.method, table, row, column, seed) for seed in seeds)}
        baseline = row.delta_against[index] if row.delta_against else None
        return Cell(row, column, tuple(runs.values()), row.paper[index], baseline)

    def run(self, method: str, table: Table, row: Row, column: Column, seed: int) -> RunSpec:
        """Return the run spec of `method` in the cell of that row and column."""
        chosen = self._resolved(method, column)
        related = functools.partial(self.run, table=table, row=row, column=column, seed=seed)
        network = self._network(chosen, column, row.timesteps)
        published = column.pretrained if self.scale.pretrained and chosen.recipe == "teacher" else None
        spec = {
            "dataset": self._dataset(column.dataset),
            "network": network,
            "loss": chosen.loss or {"method": "ce"},
            "distill": self._terms(chosen, table, row),
            "teacher": related(chosen.teacher) if chosen.teacher else None,
            "source": related(chosen.source) if chosen.source else published,
            "recipe": None if published else self._recipe(chosen, column),
            "seed": 0 if published else seed,
        }
        return _parse(RunSpec, spec, f"{table.name}, row '{row.method}', column '{column.key}'")

    def _method(self, name: str) -> Method:
        if name not in self.methods:
            raise unknown("method", name, self.methods, "config/methods.yaml")
        return self.methods[name]

    def _resolved(self, name: str, column: Column) -> Method:
        """The method with everything that it inherits from its base."""
        method = self._method(name)
        if method.base is None:
            return method
        base = self._resolved(column.student if method.base == "student" else method.base, column)
        return base.model_copy(
            update={
                **{key: getattr(method, key) for key in method.model_fields_set},
                "network": {**base.network, **method.network},
                "distill": {**base.distill, **method.distill},
            }
        )

    def _dataset(self, name: str) -> Dataset:
        real = _known("dataset", name, self.datasets)
        chosen = _known("dataset", self.scale.datasets.get(real, real), self.datasets)
        return self.datasets[chosen]

    def _network(self, method: Method, column: Column, timesteps: int) -> ResNet:
        name = _known("network", column.network, self.networks)
        fields = {"name": name, **self.networks[name], **self.scale.networks.get(name, {}), **method.network}
        if neuron := fields.get("neuron"):
            neuron = "paper-text" if self.preset == "paper-text" else neuron
            fields["neuron"] = self.neurons[_known("neuron", neuron, self.neurons)]
        if quantised := fields.get("quantised"):
            fields["quantised"] = self.quantised[_known("quantised", quantised, self.quantised)]
        if fields.get("form") in ("spiking", "sew", "qcfs-snn"):
            fields["timesteps"] = timesteps
        return _parse(ResNet, fields, f"network '{name}' at scale '{self.scale.name}'")

    def _terms(self, method: Method, table: Table, row: Row) -> dict[str, Fragment]:
        layers = (table.distill, self.scale.distill, row.distill)
        return {
            term: functools.reduce(lambda merged, layer: {**merged, **layer.get(term, {})}, layers, dict(options))
            for term, options in method.distill.items()
        }

    def _recipe(self, method: Method, column: Column) -> Recipe | None:
        if method.recipe is None:
            return None
        if method.recipe not in column.recipes:
            raise unknown("recipe role", method.recipe, column.recipes, f"column '{column.key}'")
        name = _known("recipe", column.recipes[method.recipe], self.recipes)
        overrides = itertools.chain(self.scale.recipes.get("*", {}).items(), self.scale.recipes.get(name, {}).items())
        fields = self.recipes[name].model_dump() | dict(overrides)
        return _parse(Recipe, fields, f"recipe '{name}' at scale '{self.scale.name}'")


def _catalogue(model: type[M], path: Path, named: bool = False) -> dict[str, M]:
    """Read models by name; `named` ones carry their own name."""
    return {
        name: _parse(model, {"name": name, **entry} if named else entry, f"config/{path.name}, '{name}'")
        for name, entry in _read(path).items()
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def _parse(model: type[M], content: Mapping[str, Any], where: str) -> M:
    try:
        return TypeAdapter(model).validate_python(dict(content))
    except ValidationError as error:
        raise explain(error, model, where) from error


def _all_known(kind: str, found: Iterable[str], valid: Iterable[str], where: str) -> None:
    for name in found:
        if name not in valid:
            raise unknown(kind, name, valid, where)


def _known(kind: str, name: str, catalogue: Mapping[str, Any]) -> str:
    if name not in catalogue:
        raise unknown(kind, name, catalogue)
    return name


def _expect(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise ValueError(f"{what}: found {found}, expected {expected}, one per column")


def _expect_known(key: str, found: str, valid: Iterable[str], method: str) -> None:
    names = list(valid)
    if found not in names:
        raise ValueError(f"row '{method}': '{key}' is '{found}', expected one of: {', '.join(names)}")
