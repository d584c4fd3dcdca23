"""Reading `config/`: its tables, scales and catalogues, every file validated. Free of torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from bkdsnn.config import own
from bkdsnn.config.declarations import Extension, OwnTable, Scale, Table
from bkdsnn.config.run_spec import Pretrained
from bkdsnn.config.strict import Strict
from bkdsnn.core.errors import UserError, explain, unknown

CONFIG = Path(__file__).resolve().parents[2] / "config"
M = TypeVar("M", bound=Strict)


def table_names(config: Path = CONFIG) -> list[str]:
    """Names of the tables that can be made: in the paper's order, then those of the user's own folder."""
    return list(table_files(config))


def table_files(config: Path = CONFIG) -> dict[str, Path]:
    """The file of every table by the table's name; an own one that has the name of another raises `UserError`."""
    return named_files("table", config / "paper", "tables")


def scale_names(config: Path = CONFIG) -> list[str]:
    """Names of the scales."""
    return sorted(path.stem for path in (config / "scales").glob("*.yaml"))


def named_files(prefix: str, ours: Path, theirs: str) -> dict[str, Path]:
    """The YAML files of a folder of ours, and of one of the user's own, by stem: tables (`table`), figures (`fig`)."""
    found = {path.stem: path for path in sorted(ours.glob("*.yaml"))}
    for path in own.files(f"{theirs}/*.y*ml"):
        if path.suffix != ".yaml" or not re.fullmatch(rf"{prefix}(?!1$|ure$)\w+", path.stem):
            raise UserError(f"{path}: not the name of a target, expected one such as {prefix}_mine.yaml")
        if path.stem in found:
            raise UserError(f"{path}: {place(found[path.stem])} has that name already; choose another")
        found[path.stem] = path
    return found


def load_table(name: str, config: Path = CONFIG) -> Table:
    """Read the table of that name, of ours or the user's own; an unknown name or key raises `UserError`."""
    files = table_files(config)
    if name not in files:
        raise unknown("table", name, files)
    return _own_table(files[name], config) if own.owns(files[name]) else load(Table, files[name], name)


def place_of_table(name: str, config: Path = CONFIG) -> str:
    """How messages name the file of a table."""
    return place(table_files(config).get(name, config / "paper" / f"{name}.yaml"))


def _own_table(path: Path, config: Path) -> OwnTable:
    if "extends" not in read_yaml(path):
        return load(OwnTable, path, path.stem)
    own_part, papers = load(Extension, path, path.stem), sorted((config / "paper").glob("*.yaml"))
    base = own_part.extends.table
    all_known("table of the paper", [base], [paper.stem for paper in papers], place(path))
    with told(OwnTable, place(path)):
        return own_part.on_top_of(load_table(base, config))


def load_scale(name: str, config: Path = CONFIG) -> Scale:
    """Read `config/scales/<name>.yaml`; an unknown name or key raises `UserError`."""
    if name not in scale_names(config):
        raise unknown("scale", name, scale_names(config))
    return load(Scale, config / "scales" / f"{name}.yaml", name)


def load(model: type[M], path: Path, name: str) -> M:
    """Read one model from its own file, in `config` or a folder of it; a mistake raises `UserError`."""
    return parse(model, {"name": name, **read_yaml(path)}, place(path))


def place(path: Path) -> str:
    """How messages name a file: ours as `config/...`, one of the user's own in full."""
    if own.owns(path):
        return str(path)
    folder = "" if path.parent.name == CONFIG.name else f"{path.parent.name}/"
    return f"config/{folder}{path.name}"


def published_weights(config: Path = CONFIG) -> list[Pretrained]:
    """Every published file of weights that some column names."""
    columns = (column for table in table_names(config) for column in load_table(table, config).columns)
    return [column.pretrained for column in columns if column.pretrained]


def entries(pattern: str, config: Path = CONFIG) -> dict[str, tuple[Any, str]]:
    """What the files of that pattern declare in `config` and in the user's own folder, by name, each with its place.

    Raises `UserError` for a name that two files declare, and for an own name that no run's name could hold.
    """
    found: dict[str, tuple[Any, str]] = {}
    for path in (*(sorted(config.glob(pattern)) or [config / pattern]), *own.files(pattern)):
        for name, content in read_yaml(path).items():
            if name in found:
                raise UserError(f"{place(path)} declares '{name}', as {found[name][1]} does; choose another name")
            if own.owns(path) and not own.NAME.fullmatch(str(name)):
                raise UserError(f"{place(path)}: '{name}' is not a name such as my-net-2")
            found[name] = content, f"{place(path)}, '{name}'"
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; anything else raises `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def parse(model: type[M], content: Mapping[str, Any], where: str) -> M:
    """Validate a mapping against a model; a mistake raises `UserError` that names the place `where`."""
    with told(model, where):
        return TypeAdapter(model).validate_python(dict(content))


@contextlib.contextmanager
def told(model: type[Strict], where: str) -> Iterator[None]:
    """Turn a mistake in what becomes a model into one `UserError` that names its place."""
    try:
        yield
    except ValidationError as error:
        raise explain(error, model, where) from error
    except UserError as error:  # of options of the user's own
        raise UserError(f"{where}: {error}") from error


def all_known(kind: str, found: Iterable[str], valid: Iterable[str], where: str) -> None:
    """Raise `UserError` for the first name that is not among the valid ones."""
    for name in found:
        if name not in valid:
            raise unknown(kind, name, valid, where)


def known(kind: str, name: str, entries: Mapping[str, Any]) -> str:
    """Return the name, or raise `UserError` if it is not among the entries."""
    if name not in entries:
        raise unknown(kind, name, entries)
    return name
