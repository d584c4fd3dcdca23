"""Text about runs for people: the runs of a table or figure with their state, and all values of a single run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bkdsnn.config import RunSpec, Strict
from bkdsnn.config.figure_plans import FigurePlan
from bkdsnn.config.layers import merged, origins
from bkdsnn.config.plans import Plan
from bkdsnn.config.resolution import Resolved
from bkdsnn.core.errors import unknown
from bkdsnn.runs.run_folder import RunFolder


class Listed(NamedTuple):
    """A run of a cell (`role` is `cell`), or a run that it depends on (`teacher` or `source`)."""

    row: str
    column: str
    seed: int
    role: str
    state: str
    name: str


def listed(plan: Plan | FigurePlan, runs: Path, row: str | None, column: str | None) -> list[Listed]:
    """Return the runs of a plan, optionally of one row or column only; an ancestor comes once, before its cell's runs.

    In a figure, curves are the rows and panels the columns. `runs` is the folder of the runs. Raises `UserError` for
    an unknown row or column.
    """
    if isinstance(plan, Plan):
        cells = [(cell.row.key, cell.column.key, cell.runs) for cell in plan.cells]
    else:
        cells = [(curve.label, panel.title, curve.runs) for panel in plan.panels for curve in panel.curves]
    for kind, wanted, valid in (("row", row, {one[0] for one in cells}), ("column", column, {one[1] for one in cells})):
        if wanted is not None and wanted not in valid:
            raise unknown(kind, wanted, valid)
    chosen = [one for one in cells if row in (None, one[0]) and column in (None, one[1])]
    listed_already = {spec.name for _, _, specs in chosen for spec in specs}
    found = []
    for of_row, of_column, specs in chosen:
        for role, spec in itertools.chain.from_iterable(map(_family, specs)):
            if role == "cell" or spec.name not in listed_already:
                found.append(Listed(of_row, of_column, spec.seed, role, RunFolder(runs, spec).state, spec.name))
                listed_already.add(spec.name)
    return found


def _family(spec: RunSpec, role: str = "cell") -> Iterator[tuple[str, RunSpec]]:
    """Yield a run's ancestors and then the run itself, each with its role."""
    for key in ("teacher", "source"):
        if isinstance(parent := getattr(spec, key), RunSpec):
            yield from _family(parent, key)
    yield role, spec


def in_words(runs: Iterable[Listed]) -> Iterator[tuple[object, ...]]:
    """Return a line of fields per run: row (for an ancestor with its role), column, seed, state, name."""
    for one in runs:
        row = one.row if one.role == "cell" else f"{one.row} ({one.role})"
        yield row, one.column, f"seed {one.seed}", one.state, one.name


def columns(rows: Iterable[Iterable[object]]) -> str:
    """Return the rows as lines of text with aligned columns."""
    cells = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)
    return "".join(f"{line}\n" for line in lines)


def details(found: Resolved, folder: RunFolder, why: bool) -> str:
    """Return all values of a run as indented text; `why` adds to each value the file that states it."""
    others = len(found.asked_by) - 1
    head = [
        ("run", found.spec.name),
        ("state", folder.state),
        ("folder", folder.path),
        ("asked for by", found.asked_by[0] + (f" (and {others} more)" if others else "")),
    ]
    text = "".join(f"{key}: {value}\n" for key, value in head)
    lines = [(line, place if why else "") for line, place in _values(found)]
    return text + columns(lines)


def _values(found: Resolved) -> Iterator[tuple[str, str]]:
    """Yield every value as a line of text, with the file and entry that state it."""
    spec, chosen, places = found.spec, merged(found.parts["run"]), origins(found.parts["run"])
    models: dict[str, Strict] = {"dataset": spec.dataset, "network": spec.network, "loss": spec.loss}
    for part, model in (models | {term.method: term for term in spec.distill}).items():
        yield f"{part}:", places.get(part, "")
        yield from _fields(model.model_dump(mode="json"), origins(found.parts.get(part, ())), places.get(part))
    for part in ("teacher", "source"):
        value = getattr(spec, part)
        yield f"{part}: {value.name if value else 'null'}", places.get(part, "(default)")
    name = chosen.get("recipe")
    yield f"recipe: {name if isinstance(name, str) else ''}".rstrip(), places.get("recipe", "(default)")
    if spec.recipe:
        yield from _fields(spec.recipe.model_dump(mode="json"), origins(found.parts["recipe"]))
    yield f"role: {spec.role}", places.get("role", "(default)")
    yield f"seed: {spec.seed}", places.get("seed", "the seed that was asked for")


def _fields(
    fields: Mapping[str, Any], places: Mapping[str, str], whole: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the lines of one part's fields; a field without a place is a default, or if none has one, from `whole`."""
    for key, value in fields.items():
        yield from _lines(key, value, 1, places.get(key, "(default)" if places else whole or ""))


def _lines(key: str, value: Any, depth: int, place: str) -> Iterator[tuple[str, str]]:
    nested = isinstance(value, Mapping) and value
    text = "" if nested else f" {value if isinstance(value, str) else json.dumps(value)}"
    yield f"{'  ' * depth}{key}:{text}", place
    for inner, one in value.items() if nested else ():
        yield from _lines(inner, one, depth + 1, "")
