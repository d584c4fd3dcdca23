"""The paper as data: tables declared in YAML, expanded for a scale into run specs. Pure, and free of torch.

config/paper/table2c.yaml --plan(table, scale, seeds)--> Plan of cells, each with its run specs
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from bkdsnn.config import (
    RUN_NAME,
    CrossEntropy,
    Dataset,
    Network,
    Neuron,
    Pretrained,
    Quantised,
    Recipe,
    RunSpec,
    Strict,
    TaskLoss,
    own,
)
from bkdsnn.config.catalogue import (
    CONFIG,
    M,
    all_known,
    entries,
    expect_fields,
    known,
    load_scale,
    load_table,
    parse,
    place_of_table,
    table_names,
)
from bkdsnn.config.declarations import Column, MethodEntry, Overrides, Row, Table, Terms
from bkdsnn.config.layers import Layer, Parts, merged, origins, within
from bkdsnn.config.losses import TERMS
from bkdsnn.config.plans import At, Cell, Plan, Preset
from bkdsnn.core.errors import UserError, faults, suggest, unknown

FAMILIES = {family.model_fields["family"].default: family for family in get_args(get_args(Network)[0])}
LOSSES = {loss.model_fields["method"].default: loss for loss in get_args(get_args(TaskLoss)[0])}
CHOICES = Layer(
    "(default)", {"loss": CrossEntropy(), "teacher": None, "source": None, "recipe": None, "role": "student"}
)
METHODS_OWN = ("loss", "teacher", "source", "timesteps")  # keys of a method that are also choices of a run


def plan(table: str, scale: str, *, seeds: Iterable[int] | None = None, neurons: Preset = "reference") -> Plan:
    """Expand a table at a scale. `seeds` replaces the scale's own; an empty list raises `UserError`."""
    return Expansion(scale, neurons=neurons).plan(load_table(table), seeds)


def find_run(name: str, scale: str, config: Path = CONFIG) -> RunSpec:
    """Return the spec of the run with this name, for any seed, neurons and data; an unknown name raises `UserError`."""
    match = RUN_NAME.match(name)
    if match is None:
        raise UserError(f"'{name}' is not a run name; expected <dataset>-<network>-<method>-t<T>-s<seed>-<digest>")
    runs: dict[str, RunSpec] = {}
    for preset in get_args(Preset):
        runs |= _runs_of_seed(scale, int(match["seed"]), preset, config, os.environ.get(own.OWN))
        if found := runs.get(name) or copied([name], runs, scale, config).get(name):
            return found
    known = f"`python -m bkdsnn plan <table> --scale {scale}` lists the runs of a table"
    raise UserError(f"unknown run '{name}' in scale '{scale}'{suggest(name, runs)}; {known}{own.hint()}")


@functools.cache
def _runs_of_seed(scale: str, seed: int, neurons: Preset, config: Path, own_folder: str | None) -> dict[str, RunSpec]:
    """Every run of one seed, expanded once in each process; `own_folder` is here for the cache alone."""
    return all_runs(scale, seeds=[seed], neurons=neurons, config=config)


def all_runs(
    scale: str, *, seeds: Iterable[int] | None = None, neurons: Preset = "reference", config: Path = CONFIG
) -> dict[str, RunSpec]:
    """Every distinct run of every table at a scale, by name."""
    expansion = Expansion(scale, neurons=neurons, config=config)
    seeds = None if seeds is None else list(seeds)
    plans = (expansion.plan(load_table(table, config), seeds) for table in table_names(config))
    return {name: run for one in plans for name, run in one.runs().items()}


def copied(names: Iterable[str], runs: Mapping[str, RunSpec], scale: str, config: Path = CONFIG) -> dict[str, RunSpec]:
    """Return those of the named runs that differ from one of the `runs` only in their dataset."""
    datasets = Expansion(scale, config=config).datasets.values()
    alike = [(name, data) for name in names for data in datasets if name.startswith(f"{data.name}-")]
    rests = [(_without(run.dataset.name, name), run) for name, run in runs.items()]
    moved = (run.on(data) for name, data in alike for rest, run in rests if rest == _without(data.name, name))
    return {run.name: run for run in moved if run.name in {name for name, _ in alike}}


def _without(dataset: str, name: str) -> str:
    """A run's name without its dataset and its digest."""
    return name.removeprefix(dataset).rpartition("-")[0]


class Expansion:
    """The files of `config/` as one scale uses them, and the rules that turn a cell of a table into run specs.

    `copies` maps datasets of the paper to the datasets that replace them; it takes precedence over the scale.
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
        if neurons == "paper-text":  # D-041
            note = f"{self.scale.note.strip()} Neurons are those of the paper's text: IF with a sigmoid surrogate."
            self.scale = self.scale.model_copy(update={"note": note})
        self.requested: dict[str, Overrides] = {}  # overrides of single runs by file; they win over the scale's
        self.wanted: set[tuple[str, str]] = set()  # (kind, name) of the entries whose overrides were looked up
        self.places: dict[tuple[str, str], str] = {}  # (kind, name) of an entry to the file and key that declare it
        self.config = config
        self.terms = {name: one for name, one in own.joined("method", TERMS | LOSSES).items() if name not in LOSSES}
        self.families = own.joined("family", FAMILIES)
        self.methods = self._placed("method", "methods.yaml", MethodEntry)
        self.neurons = self._placed("neuron", "neurons.yaml", Neuron)
        self.datasets = self._placed("dataset", "datasets.yaml", Dataset, named=True)
        self.networks = self._read("network", "networks.yaml")
        self.recipes = self._placed("recipe", "recipes/*.yaml", Recipe)
        self.quantised = self._placed("quantised", "quantised.yaml", Quantised)
        self._check(f"config/scales/{scale}.yaml", self.scale)
        for name, fields in self.networks.items():
            self._expect_network(fields, self.places["network", name])
        for name, method in self.methods.items():
            where, bases = self.places["method", name], {"student", *self.methods}
            all_known("term", method.distill, self.terms, where)
            all_known("method", filter(None, (method.teacher, method.source)), self.methods, where)
            all_known("method", filter(None, [method.base]), bases, f"{where}, as 'base'")
        self._replace_datasets(config)

    def _replace_datasets(self, config: Path) -> None:
        """Let `copies` override the scale's datasets, after checking that both names of each pair exist."""
        if self.copies:
            columns = (column for name in table_names(config) for column in load_table(name, config).columns)
            all_known("dataset of the paper", self.copies, {column.dataset for column in columns}, "'datasets'")
            all_known("dataset", self.copies.values(), self.datasets, "'datasets'")
            self.scale = self.scale.model_copy(update={"datasets": {**self.scale.datasets, **self.copies}})

    def _read(self, kind: str, pattern: str) -> dict[str, Any]:
        """Return the entries that the files matching `pattern` declare, and remember the place of each."""
        found = entries(pattern, self.config)
        self.places |= {(kind, name): where for name, (_, where) in found.items()}
        return {name: content for name, (content, _) in found.items()}

    def _placed(self, kind: str, pattern: str, model: type[M], named: bool = False) -> dict[str, M]:
        """Read entries as models, by name; `named` models also have the name as a field."""
        return {
            name: parse(model, {"name": name, **content} if named else content, self.places[kind, name])
            for name, content in self._read(kind, pattern).items()
        }

    def request(self, file: str, overrides: Overrides) -> None:
        """Add the overrides that a file of a single run states; they win over the scale's."""
        self._check(file, overrides)
        self.requested[file] = overrides

    def unused(self, overrides: Overrides) -> list[str]:
        """Return the entries of the overrides that no run uses of those expanded so far, such as "recipes 'x'"."""
        stated = ((kind, name) for kind, entries in overrides for name in entries)
        return [f"{kind} '{name}'" for kind, name in stated if (kind, name) not in self.wanted]

    def _check(self, where: str, overrides: Overrides) -> None:
        """Refuse overrides of unknown names or fields, also where no run uses them."""
        all_known("dataset", (*overrides.datasets, *overrides.datasets.values()), self.datasets, where)
        all_known("network", overrides.networks, self.networks, where)
        all_known("recipe", overrides.recipes, {"*", *self.recipes}, where)
        for name, fields in overrides.networks.items():
            self._expect_network({**self.networks[name], **fields}, f"{where}, networks '{name}'")
        for name, fields in overrides.recipes.items():
            expect_fields(Recipe, fields, f"{where}, recipes '{name}'")
        self._expect_terms(overrides.distill, where)

    def _expect_terms(self, terms: Terms, where: str) -> None:
        all_known("term", terms, self.terms, where)
        for term, options in terms.items():
            expect_fields(self.terms[term], options, f"{where}, distill '{term}'")

    def _expect_network(self, fields: Mapping[str, Any], where: str) -> None:
        """Refuse fields of a network that no family takes together; those that a method adds may be missing."""
        fields = {**fields}
        by_data = fields.pop("datasets", {})
        all_known("dataset", by_data, self.datasets, f"'datasets' of {where}")
        for dataset, others in by_data.items():
            self._expect_network({**fields, **others}, f"{where}, datasets '{dataset}'")
        for kind, named in (("neuron", self.neurons), ("quantised", self.quantised)):
            all_known(kind, filter(None, [fields.get(kind)]), named, where)
        plain = {key: value for key, value in fields.items() if key not in ("neuron", "quantised")}
        families = [known("family", fields["family"], self.families, where)] if "family" in fields else self.families
        nearest = sorted(families, key=lambda name: len(plain.keys() - self.families[name].model_fields.keys()))
        if all(faults(self.families[name], plain) for name in nearest):
            expect_fields(self.families[nearest[0]], plain, where)

    def _overrides(self, kind: str, *names: str) -> list[Layer]:
        """Return the overrides of entries with these names as layers: the scale's first, then those of single runs."""
        self.wanted |= {(kind, name) for name in names}
        where = f"config/scales/{self.scale.name}.yaml, {kind}"
        layers = {where: self.scale, **{f"{file}, {kind}": one for file, one in self.requested.items()}}
        found = ((where, name, getattr(one, kind).get(name)) for where, one in layers.items() for name in names)
        return [Layer(f"{where} '{name}'", fields) for where, name, fields in found if fields is not None]

    def plan(self, table: Table, seeds: Iterable[int] | None = None) -> Plan:
        """Return the plan of a table; see `paper.plan`."""
        chosen = different(self.scale.seeds if seeds is None else seeds)
        self._check_table(table)
        cells = [self.cell(table, row, column, chosen) for row in table.rows for column in table.columns]
        labels = {row.key: row.label or self.methods[row.method].label for row in table.rows}
        datasets = {column.dataset: self.datasets[column.dataset].label for column in table.columns}
        return Plan(table, self.scale, self.preset, labels, datasets, tuple(cells), self.copies)

    def _check_table(self, table: Table) -> None:
        """Refuse options for unknown terms and methods, which would have no effect."""
        where = place_of_table(table.name, self.config)
        by_method = [column.distill_of for column in table.columns]
        layers = [table.distill, *(row.distill for row in table.rows), *(column.distill for column in table.columns)]
        for methods in by_method:
            all_known("method", methods, self.methods, where)
        for layer in (*layers, *(terms for methods in by_method for terms in methods.values())):
            self._expect_terms(layer, where)
        for setting in table.settings.values():
            term, option = setting.split(".")
            all_known("term", [term], self.terms, where)
            all_known(f"option of '{term}'", [option], self.terms[term].model_fields, where)

    def cell(self, table: Table, row: Row, column: Column, seeds: Iterable[int] | None = None) -> Cell:
        """Return one cell of a table with one run per seed; `seeds` default to those of the scale."""
        seeds = self.scale.seeds if seeds is None else seeds
        index = table.columns.index(column)
        if row.columns:
            where = f"{place_of_table(table.name, self.config)}, 'columns' of row '{row.key}'"
            column = parse(Column, {**dict(column), **row.columns}, where)
        at = At.of(table, row, column, self.config)
        runs = {run.name: run for run in (self.run(row.method, at, seed) for seed in seeds)}
        baseline = row.delta_against[index] if row.delta_against else None
        return Cell(row, column, tuple(runs.values()), row.paper[index] if row.paper else None, baseline)

    def run(self, method: str, at: At, seed: int, above: tuple[str, ...] = (), teaches: bool = False) -> RunSpec:
        """Return the run spec of `method` in the row and column of `at`; `teaches` for a teacher and its sources."""
        if method in above:
            raise UserError(
                f"{at}: method '{method}' builds on itself ({' > '.join([*above, method])}); expected a 'teacher' "
                "and a 'source' that end at a method without them"
            )
        below = (*above, method)
        parts = self.parts(method, at)
        chosen = merged(parts["run"])
        teaches = teaches or chosen["role"] == "teacher"
        spec = {
            "dataset": self.datasets[chosen["dataset"]],
            "network": self._network(parts["network"]),
            "loss": chosen["loss"],
            "distill": {term: merged(layers) for term, layers in parts.items() if term in self.terms},
            "teacher": self.run(chosen["teacher"], at, seed, below, True) if chosen["teacher"] else None,
            "source": self.run(source, at, seed, below, teaches)
            if isinstance(source := chosen["source"], str)
            else source,
            "recipe": self._recipe(chosen["recipe"], parts["recipe"]),
            "role": "teacher" if teaches and chosen["recipe"] else "student",
            "seed": chosen.get("seed", seed),
        }
        return parse(RunSpec, spec, str(at))

    def parts(self, method: str, at: At) -> Parts:
        """Return the layers of settings for each part of a run.

        The part `run` has the chosen names of dataset, network, recipe, teacher and so on; `dataset`, `network` and
        `recipe` have the fields of these entries, and each distillation term has its options.
        """
        chain = self._chain(method, at, at.row_place)
        choices = self._choices(chain, at)
        chosen = merged(choices)
        dataset = Layer(self.places["dataset", chosen["dataset"]], stated(self.datasets[chosen["dataset"]]))
        return {
            "run": choices,
            "dataset": [dataset],
            "network": self._network_layers(chosen, choices, chain, at.column.dataset),
            "recipe": self._recipe_layers(chosen["recipe"]),
            **self._terms(method, chain, at),
        }

    def _choices(self, chain: list[Layer], at: At) -> list[Layer]:
        """Return the layers that choose the entries (dataset, network, recipe, teacher, ...) of a run."""
        method, stated, column = merged(chain), origins(chain), at.column
        role = method.get("recipe")
        teachers = role == "teacher"
        network = "teacher" if teachers and column.teacher else "network"
        layers = [
            CHOICES,
            Layer(at.row_place, {"timesteps": at.row.timesteps}),
            Layer(
                at.column_place("dataset"),
                {"dataset": known("dataset", column.dataset, self.datasets, at.column_place("dataset"))},
            ),
            *(Layer(layer.place, {"dataset": layer.fields}) for layer in self._overrides("datasets", column.dataset)),
            Layer(at.column_place(network), {"network": getattr(column, network)}),
        ]
        if role in column.timesteps:
            layers.append(Layer(at.column_place("timesteps"), {"timesteps": column.timesteps[role]}))
        layers += [Layer(stated[key], {key: method[key]}) for key in METHODS_OWN if method.get(key)]
        if method.get("teacher") and (taught_by := column.taught_by):
            place = at.column_place("taught_by")
            layers.append(Layer(place, {"teacher": known("method", taught_by, self.methods, place)}))
        if role:
            layers.append(Layer(at.column_place("recipes"), {"recipe": self._recipe_name(role, at)}))
        if teachers:
            layers.append(Layer(stated["recipe"], {"role": "teacher"}))  # D-177
        if teachers and (published := self._published(column)) and not method.get("source"):
            evaluated = {} if column.fine_tune else {"recipe": None, "seed": 0}  # D-143
            layers.append(Layer(at.column_place("pretrained"), {"source": published, **evaluated}))
        return layers

    def _published(self, column: Column) -> Pretrained | None:
        wanted = {"none": False, "fine-tuned": column.fine_tune, "all": True}
        return column.pretrained if wanted[self.scale.pretrained] else None

    def _chain(self, name: str, at: At, where: str, above: tuple[str, ...] = ()) -> list[Layer]:
        """Return the layers of a method that `where` names: first those inherited from its base, then its own."""
        if name in above:
            raise UserError(
                f"method '{name}' extends itself ({' > '.join([*above, name])}); expected a 'student' (of a column) "
                "and a 'base' (of a method) that stand by themselves, such as sew-resnet"
            )
        method, place = self.methods[known("method", name, self.methods, where)], self.places["method", name]
        base, stating = (
            (at.column.student, at.column_place("student")) if method.base == "student" else (method.base, place)
        )
        inherited = self._chain(base, at, stating, (*above, name)) if base else []
        return [*inherited, Layer(place, stated(method))]

    def _network_layers(
        self, chosen: Mapping[str, Any], choices: list[Layer], chain: list[Layer], dataset: str
    ) -> list[Layer]:
        places = origins(choices)
        name = known("network", chosen["network"], self.networks, places["network"])
        given = {**self.networks[name]}
        where, by_data = self.places["network", name], given.pop("datasets", {})
        layers = [
            Layer(places["network"], {"name": name}),
            Layer(where, given),
            Layer(f"{where}, datasets '{dataset}'", by_data.get(dataset, {})),
            *self._overrides("networks", name),
            *within(chain, "network"),
        ]
        fields, stated = merged(layers), origins(layers)
        for key, known_ones in (("neuron", self.neurons), ("quantised", self.quantised)):
            if entry := fields.get(key):
                entry = "paper-text" if (key, self.preset) == ("neuron", "paper-text") else entry
                where = self.places[key, known(key, entry, known_ones, stated[key])]
                layers.append(Layer(f"{where}, by {stated[key]}", {key: known_ones[entry]}))
        family = self.families[known("family", fields.get("family", "resnet"), self.families, stated.get("family", ""))]
        if fields.get("form", family.model_fields["form"].default) in family.fires:
            if chosen["timesteps"] is None:
                raise UserError(f"{places['timesteps']}: 'timesteps' is missing, and '{name}' is spiking; state its T")
            layers.append(Layer(places["timesteps"], {"timesteps": chosen["timesteps"]}))
        return layers

    def _network(self, layers: list[Layer]) -> Network:
        fields = {"family": "resnet", **merged(layers)}
        return parse(
            self.families[fields["family"]], fields, f"network '{fields['name']}' at scale '{self.scale.name}'"
        )

    def _terms(self, name: str, chain: list[Layer], at: At) -> Parts:
        stated = within(chain, "distill")
        layers = [
            *stated,
            Layer(at.file, at.table.distill),
            Layer(at.column_place("distill"), at.column.distill),
            Layer(at.column_place("distill_of"), at.column.distill_of.get(name, {})),
        ]
        if name == at.row.method:
            all_known(f"term of method '{name}'", at.row.distill, merged(stated), at.row_place)
        over = Layer(at.row_place, at.row.distill)
        return {
            term: [*within(layers, term), *self._overrides("distill", term), *within([over], term)]
            for term in merged(stated)
        }

    def _recipe_name(self, role: str, at: At) -> str:
        if role not in at.column.recipes:
            where = f"column '{at.column.key}'" if at.column.key else at.file
            raise unknown("recipe role", role, at.column.recipes, where)
        return known("recipe", at.column.recipes[role], self.recipes, at.column_place("recipes"))

    def _recipe_layers(self, name: str | None) -> list[Layer]:
        if name is None:
            return []
        return [Layer(self.places["recipe", name], stated(self.recipes[name])), *self._overrides("recipes", "*", name)]

    def _recipe(self, name: str | None, layers: list[Layer]) -> Recipe | None:
        return parse(Recipe, merged(layers), f"recipe '{name}' at scale '{self.scale.name}'") if name else None


def different(seeds: Iterable[int]) -> tuple[int, ...]:
    """Return the seeds; none at all, or one twice, raises `UserError`."""
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"'seeds' is {list(chosen) or 'empty'}; give at least one, and each once, such as seeds=[0, 1]")
    return chosen


def stated(model: Strict) -> dict[str, Any]:
    """Return the fields that were set explicitly and are part of a spec."""
    fields = type(model).model_fields
    return {key: getattr(model, key) for key in model.model_fields_set if not fields[key].exclude}
