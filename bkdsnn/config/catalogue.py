"""Reading `config/`: its tables, scales and catalogues, every file validated. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from bkdsnn.config.declarations import Scale, Table
from bkdsnn.config.run_spec import Pretrained
from bkdsnn.config.strict import Strict
from bkdsnn.core.errors import UserError, explain, unknown

CONFIG = Path(__file__).resolve().parents[2] / "config"
M = TypeVar("M", bound=Strict)


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
    return load(Table, config / "paper" / f"{name}.yaml", name)


def load_scale(name: str, config: Path = CONFIG) -> Scale:
    """Read `config/scales/<name>.yaml`; an unknown name or key raises `UserError`."""
    if name not in scale_names(config):
        raise unknown("scale", name, scale_names(config))
    return load(Scale, config / "scales" / f"{name}.yaml", name)


def load(model: type[M], path: Path, name: str) -> M:
    """Read one model from its own file, in `config` or a folder of it; a mistake raises `UserError`."""
    return parse(model, {"name": name, **read_yaml(path)}, place(path))


def place(path: Path, name: str = "") -> str:
    """Return how a file of `config` or a folder of it, and an entry in it, are called where a value is explained."""
    folder = "" if path.parent.name == CONFIG.name else f"{path.parent.name}/"
    return f"config/{folder}{path.name}" + (f", '{name}'" if name else "")


def published_weights(config: Path = CONFIG) -> list[Pretrained]:
    """Every published file of weights that some column names."""
    columns = (column for table in table_names(config) for column in load_table(table, config).columns)
    return [column.pretrained for column in columns if column.pretrained]


def catalogue(model: type[M], path: Path, named: bool = False) -> dict[str, M]:
    """Read models by name; `named` ones carry their own name."""
    return {
        name: parse(model, {"name": name, **entry} if named else entry, place(path, name))
        for name, entry in read_yaml(path).items()
    }


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
    try:
        return TypeAdapter(model).validate_python(dict(content))
    except ValidationError as error:
        raise explain(error, model, where) from error


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
