"""The origin of every value of a run, and runs that are described in a file of the user's. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from bkdsnn.config import RUN_NAME, Dataset, RunSpec, Strict
from bkdsnn.config.catalogue import CONFIG, load_table, parse, read_yaml, table_names
from bkdsnn.config.declarations import Column, Request, Row, Subject, Table
from bkdsnn.config.layers import Layer, Parts, merged
from bkdsnn.config.paper import Expansion, find_run, stated
from bkdsnn.config.plans import At, Preset
from bkdsnn.core.errors import unknown
from bkdsnn.core.progress import log


@dataclass(frozen=True)
class Resolved:
    """A run, all places that need it, and the layers of its settings (`Expansion.parts`) in the first of them."""

    spec: RunSpec
    parts: Parts
    asked_by: tuple[str, ...]


def resolve(name: str, scale: str, stored: Path, config: Path = CONFIG) -> Resolved:
    """Return the run with this name from the tables, for any seed and neurons, or else from `stored`, a `spec.json`.

    Raises `UserError` if neither has a run of this name.
    """
    match = RUN_NAME.match(name)
    for preset in get_args(Preset) if match else ():
        expansion = Expansion(scale, neurons=preset, config=config)
        if found := list(_cells(expansion, name, int(match["seed"]), config)):  # type: ignore[index]
            (method, at, spec), places = found[0], tuple(str(at) for _, at, _ in found)
            return Resolved(spec, expansion.parts(method, at), places)
    return (
        of_file(stored, scale, name) if match and stored.is_file() else _as_stated(find_run(name, scale, config), name)
    )


def of_file(path: Path, scale: str, name: str | None = None) -> Resolved:
    """Return the run that a file describes, or with `name` the one of that name among this run and its ancestors.

    The file is YAML or JSON: a complete spec like `spec.json`, or, if it has a key `method`, a `Request`. Raises
    `UserError` for a mistake in the file, and for an unknown name.
    """
    content, expansion = read_yaml(path), Expansion(scale)
    if "method" not in content:
        whole = parse(RunSpec, _completed(content, expansion.datasets), str(path))
        return _as_stated(_named(whole, name), path.name)
    request = parse(Request, content, str(path))
    at = _at(request, str(path))
    expansion.request(str(path), request.overrides)
    last = expansion.run(request.method, at, request.seed)
    spec = _named(last, name)
    method = _asked(expansion, request.method, at, last, spec.name)
    for unused in expansion.unused(request.overrides):
        log.warning("%s: overrides of %s have no effect, because no part of the run is of that name", path, unused)
    return Resolved(spec, expansion.parts(method or request.method, at), (str(path),))


def datasets_of(path: Path, scale: str) -> dict[str, Dataset]:
    """Return the datasets, by name, of the run that a file describes and of its ancestors; see `of_file`."""
    return {spec.dataset.name: spec.dataset for spec in of_file(path, scale).spec.lineage()}


def _completed(content: Mapping[str, Any], known: Mapping[str, Dataset]) -> dict[str, Any]:
    """Add to a complete spec the fields of its datasets that its JSON leaves out: label, page and folder."""
    parents = {key: one for key in ("teacher", "source") if isinstance(one := content.get(key), dict)}
    data = content.get("dataset")
    entry = known.get(str(data.get("name"))) if isinstance(data, dict) else None
    unsaid = {key: getattr(entry, key) for key, field in Dataset.model_fields.items() if entry and field.exclude}
    completed = {"dataset": {**unsaid, **data}} if entry and data else {}
    return {**content, **{key: _completed(one, known) for key, one in parents.items()}, **completed}


def _at(request: Request, file: str) -> At:
    """The request as row and column of a table with a single cell."""
    by_role = request.timesteps if isinstance(request.timesteps, dict) else {}
    subject = {key: getattr(request, key) for key in Subject.model_fields} | {
        "student": request.student or request.method
    }
    column = Column(key="", heading=(), timesteps=by_role, **subject)
    timesteps = None if by_role else request.timesteps
    row = Row.model_validate(
        {"method": request.method, "key": "", "group": "", "timesteps": timesteps, "paper": [None]}
    )
    table = Table(name=file, number="", title="", metric="", groups={"": ""}, columns=(column,), rows=(row,))
    return At(table, row, column, file)


def _named(spec: RunSpec, name: str | None) -> RunSpec:
    runs = {run.name: run for run in spec.lineage()}
    if name is not None and name not in runs:
        raise unknown("run", name, runs)
    return runs[name or spec.name]


def _as_stated(spec: RunSpec, place: str) -> Resolved:
    """A run whose values are all stated by one file."""
    parts: dict[str, Strict | None] = {"dataset": spec.dataset, "network": spec.network, "recipe": spec.recipe}
    parts |= {term.method: term for term in spec.distill}
    layers = {key: [Layer(place, stated(part))] for key, part in {"run": spec, **parts}.items() if part}
    return Resolved(spec, layers, (place,))


def _cells(expansion: Expansion, name: str, seed: int, config: Path) -> Iterator[tuple[str, At, RunSpec]]:
    """Every cell that needs the run of this name: the run's method in that cell, the cell, the run."""
    for table in (load_table(one, config) for one in table_names(config)):
        for cell in expansion.plan(table, [seed]).cells:
            at, found = At.of(table, cell.row, cell.column, config), {run.name: run for run in cell.runs[0].lineage()}
            if name in found and (method := _asked(expansion, cell.row.method, at, cell.runs[0], name)):
                yield method, at, found[name]


def _asked(expansion: Expansion, method: str, at: At, run: RunSpec, name: str) -> str | None:
    """The method that makes the run of this name, if it is `run` (made by `method`) or one of its ancestors."""
    if run.name == name:
        return method
    chosen = merged(expansion.parts(method, at)["run"])
    parents = ((chosen[key], getattr(run, key)) for key in ("teacher", "source") if isinstance(chosen[key], str))
    return next(filter(None, (_asked(expansion, by, at, parent, name) for by, parent in parents)), None)
