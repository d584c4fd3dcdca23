"""The paper as data: tables declared in YAML, expanded for a scale into run specs. Pure, and free of torch.

config/paper/table2c.yaml --plan(table, scale, seeds)--> Plan of cells, each with its run specs
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from bkdsnn.config import RUN_NAME, Dataset, Network, Neuron, Pretrained, Quantised, Recipe, RunSpec, Term
from bkdsnn.config.catalogue import (
    CONFIG,
    all_known,
    catalogue,
    known,
    load_scale,
    load_table,
    parse,
    read_yaml,
    table_names,
)
from bkdsnn.config.declarations import Column, Method, Row, Scale, Table, Terms
from bkdsnn.core.errors import UserError, suggest, unknown

Preset = Literal["reference", "paper-text"]
TERMS = {term.model_fields["method"].default: term for term in get_args(get_args(Term)[0])}
FAMILIES = {family.model_fields["family"].default: family for family in get_args(get_args(Network)[0])}
TIMELESS = ("ann", "qcfs")  # forms of a network


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
    return " ".join([f"snakemake --cores all {target}", *(["--config", *chosen] if chosen else [])])


def plan(table: str, scale: str, *, seeds: Iterable[int] | None = None, neurons: Preset = "reference") -> Plan:
    """Expand a table at a scale. `seeds` replaces the scale's own; an empty list raises `UserError`."""
    return Expansion(scale, neurons=neurons).plan(load_table(table), seeds)


def find_run(name: str, scale: str, config: Path = CONFIG) -> RunSpec:
    """Return the spec behind a run name, whatever its seed, neurons and data; an unknown name raises `UserError`."""
    match = RUN_NAME.match(name)
    if match is None:
        raise UserError(f"'{name}' is not a run name; expected <dataset>-<network>-<method>-t<T>-s<seed>-<10 digits>")
    runs: dict[str, RunSpec] = {}
    for preset in get_args(Preset):
        runs |= all_runs(scale, seeds=[int(match["seed"])], neurons=preset, config=config)
        if found := runs.get(name) or copied([name], runs, config).get(name):
            return found
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


def copied(names: Iterable[str], runs: Mapping[str, RunSpec], config: Path = CONFIG) -> dict[str, RunSpec]:
    """Return the runs behind those of the names that are, but for their data, one of the `runs`."""
    datasets = catalogue(Dataset, config / "datasets.yaml", named=True).values()
    alike = [(name, data) for name in names for data in datasets if name.startswith(f"{data.name}-")]
    rests = [(_without(run.dataset.name, name), run) for name, run in runs.items()]
    moved = (run.on(data) for name, data in alike for rest, run in rests if rest == _without(data.name, name))
    return {run.name: run for run in moved if run.name in {name for name, _ in alike}}


def _without(dataset: str, name: str) -> str:
    """A run's name without its dataset and its digest."""
    return name.removeprefix(dataset).rpartition("-")[0]


class Expansion:
    """Catalogues of one scale, and the rules that turn a cell into run specs.

    `copies` replace datasets of the paper, whatever the scale has in place of them.
    """

    def __init__(
        self,
        scale: str,
        *,
        neurons: Preset = "reference",
        config: Path = CONFIG,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        self.scale, self.copies = load_scale(scale, config), dict(copies or {})
        self.preset = neurons
        if neurons == "paper-text":
            note = f"{self.scale.note.strip()} Neurons are those of the paper's text: IF with a sigmoid surrogate."
            self.scale = self.scale.model_copy(update={"note": note})
        self.methods = catalogue(Method, config / "methods.yaml")
        self.neurons = catalogue(Neuron, config / "neurons.yaml")
        self.datasets = catalogue(Dataset, config / "datasets.yaml", named=True)
        self.networks = read_yaml(config / "networks.yaml")
        files = sorted((config / "recipes").glob("*.yaml"))
        self.recipes = {name: recipe for path in files for name, recipe in catalogue(Recipe, path).items()}
        self.quantised = catalogue(Quantised, config / "quantised.yaml")
        self._check_scale()
        self._replace_datasets(config)

    def _replace_datasets(self, config: Path) -> None:
        """Let the copies replace the scale's own datasets, if the paper has what they replace and we what they are."""
        if self.copies:
            columns = (column for name in table_names(config) for column in load_table(name, config).columns)
            all_known("dataset of the paper", self.copies, {column.dataset for column in columns}, "'datasets'")
            all_known("dataset", self.copies.values(), self.datasets, "'datasets'")
            self.scale = self.scale.model_copy(update={"datasets": {**self.scale.datasets, **self.copies}})

    def _check_scale(self) -> None:
        """Refuse overrides of things that do not exist: they would be ignored in silence."""
        where = f"config/scales/{self.scale.name}.yaml"
        all_known("dataset", self.scale.datasets, self.datasets, where)
        all_known("network", self.scale.networks, self.networks, where)
        all_known("recipe", self.scale.recipes, {"*", *self.recipes}, where)
        all_known("term", self.scale.distill, TERMS, where)

    def plan(self, table: Table, seeds: Iterable[int] | None = None) -> Plan:
        """Return the plan of a table; see `paper.plan`."""
        chosen = tuple(self.scale.seeds if seeds is None else seeds)
        if not chosen:
            raise UserError("'seeds' is empty; give at least one, such as seeds=[0]")
        self._check_table(table)
        cells = [self.cell(table, row, column, chosen) for row in table.rows for column in table.columns]
        labels = {row.key: row.label or self._method(row.method).label for row in table.rows}
        datasets = {column.dataset: self.datasets[column.dataset].label for column in table.columns}
        return Plan(table, self.scale, self.preset, labels, datasets, tuple(cells), self.copies)

    def _check_table(self, table: Table) -> None:
        """Refuse options of terms and methods that do not exist: they would be ignored in silence."""
        where = f"config/paper/{table.name}.yaml"
        by_method = [column.distill_of for column in table.columns]
        layers = [table.distill, *(row.distill for row in table.rows), *(column.distill for column in table.columns)]
        for methods in by_method:
            all_known("method", methods, self.methods, where)
        for layer in (*layers, *(terms for methods in by_method for terms in methods.values())):
            all_known("term", layer, TERMS, where)
        for place in table.settings.values():
            term, option = place.split(".")
            all_known("term", [term], TERMS, where)
            all_known(f"option of '{term}'", [option], TERMS[term].model_fields, where)

    def cell(self, table: Table, row: Row, column: Column, seeds: Iterable[int] | None = None) -> Cell:
        """Return one cell of a table, its runs at `seeds` or at those of the scale."""
        seeds = self.scale.seeds if seeds is None else seeds
        index = table.columns.index(column)
        if row.columns:
            where = f"config/paper/{table.name}.yaml, 'columns' of row '{row.key}'"
            column = parse(Column, {**dict(column), **row.columns}, where)
        runs = {run.name: run for run in (self.run(row.method, table, row, column, seed) for seed in seeds)}
        baseline = row.delta_against[index] if row.delta_against else None
        return Cell(row, column, tuple(runs.values()), row.paper[index], baseline)

    def run(self, method: str, table: Table, row: Row, column: Column, seed: int) -> RunSpec:
        """Return the run spec of `method` in the cell of that row and column."""
        chosen = self._resolved(method, column)
        related = functools.partial(self.run, table=table, row=row, column=column, seed=seed)
        published = self._published(column) if chosen.recipe == "teacher" else None
        evaluated = published is not None and not column.fine_tune
        spec = {
            "dataset": self._dataset(column.dataset),
            "network": self._network(chosen, column, _timesteps(chosen, row, column)),
            "loss": chosen.loss or {"method": "ce"},
            "distill": self._terms(method, chosen, table, row, column),
            "teacher": related(column.taught_by or chosen.teacher) if chosen.teacher else None,
            "source": related(chosen.source) if chosen.source else published,
            "recipe": None if evaluated else self._recipe(chosen, column),
            "seed": 0 if evaluated else seed,
        }
        return parse(RunSpec, spec, f"{table.name}, row '{row.key}', column '{column.key}'")

    def _published(self, column: Column) -> Pretrained | None:
        wanted = {"none": False, "fine-tuned": column.fine_tune, "all": True}
        return column.pretrained if wanted[self.scale.pretrained] else None

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
                "distill": _merged([base.distill, method.distill]),
            }
        )

    def _dataset(self, name: str) -> Dataset:
        real = known("dataset", name, self.datasets)
        chosen = known("dataset", self.scale.datasets.get(real, real), self.datasets)
        return self.datasets[chosen]

    def _network(self, method: Method, column: Column, timesteps: int | None) -> Network:
        own = column.teacher if method.recipe == "teacher" else None
        name = known("network", own or column.network, self.networks)
        fields = {"family": "resnet", "name": name, **self.networks[name]}
        fields |= {**self.scale.networks.get(name, {}), **method.network}
        if neuron := fields.get("neuron"):
            neuron = "paper-text" if self.preset == "paper-text" else neuron
            fields["neuron"] = self.neurons[known("neuron", neuron, self.neurons)]
        if quantised := fields.get("quantised"):
            fields["quantised"] = self.quantised[known("quantised", quantised, self.quantised)]
        if fields.get("form") not in TIMELESS:
            fields["timesteps"] = timesteps
        family = FAMILIES[known("family", fields["family"], FAMILIES)]
        return parse(family, fields, f"network '{name}' at scale '{self.scale.name}'")

    def _terms(self, name: str, method: Method, table: Table, row: Row, column: Column) -> Terms:
        layers = [table.distill, column.distill, column.distill_of.get(name, {}), self.scale.distill, row.distill]
        merged = _merged([method.distill, *layers])
        return {term: merged[term] for term in method.distill}

    def _recipe(self, method: Method, column: Column) -> Recipe | None:
        if method.recipe is None:
            return None
        if method.recipe not in column.recipes:
            raise unknown("recipe role", method.recipe, column.recipes, f"column '{column.key}'")
        name = known("recipe", column.recipes[method.recipe], self.recipes)
        overrides = itertools.chain(self.scale.recipes.get("*", {}).items(), self.scale.recipes.get(name, {}).items())
        fields = self.recipes[name].model_dump() | dict(overrides)
        return parse(Recipe, fields, f"recipe '{name}' at scale '{self.scale.name}'")


def _timesteps(method: Method, row: Row, column: Column) -> int | None:
    """T of a spiking run: its method's own, or else the column's for its role, or else the row's."""
    own = column.timesteps.get(method.recipe) if method.recipe else None
    return method.timesteps or own or row.timesteps


def _merged(layers: Iterable[Terms]) -> Terms:
    """Return the options of every term; a later layer overrides an earlier one option by option."""
    merged: Terms = {}
    for layer in layers:
        for term, options in layer.items():
            merged[term] = {**merged.get(term, {}), **options}
    return merged
