"""Reading `config/`: its tables, scales and catalogues, every file validated. Free of torch."""

from __future__ import annotations

import contextlib
import functools
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
from bkdsnn.core.errors import UserError, explain, faults, unknown

CONFIG = Path(__file__).resolve().parents[2] / "config"
M = TypeVar("M", bound=Strict)
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast


class UniqueKeys(SAFE_LOADER):
    """A safe loader that refuses a key that stands twice in one mapping, where YAML would take the last in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return the mapping; a repeated key raises a `yaml.YAMLError` that names it and its line."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if not getattr(node, "checked", False) and len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"key '{twice}' stands twice in the mapping of line {node.start_mark.line + 1}")
        node.checked = True  # merged keys ("<<") are joined to the node below, and may repeat its own
        return super().construct_mapping(node, deep)


def table_names(config: Path = CONFIG) -> list[str]:
    """Names of all tables: those of the paper in its order, then those in the user's own folder."""
    return list(table_files(config))


def table_files(config: Path = CONFIG) -> dict[str, Path]:
    """The file of every table, by name; a table of the user's own with an existing name raises `UserError`."""
    return named_files("table", [config / "paper"], "tables")


def scale_names(config: Path = CONFIG) -> list[str]:
    """Names of the scales."""
    return sorted(path.stem for path in (config / "scales").glob("*.yaml"))


def named_files(prefix: str, ours: Iterable[Path], theirs: str) -> dict[str, Path]:
    """The YAML files of tables or figures by stem: of the folders `ours`, and of the folder `theirs` of the user's own.

    The stems begin with `prefix`: `table` or `fig`.
    """
    found = {path.stem: path for folder in ours for path in sorted(folder.glob("*.yaml"))}
    for path in own.files(f"{theirs}/*.yaml"):
        if not re.fullmatch(rf"{prefix}(?!1$|ure$)\w+", path.stem):
            raise UserError(f"{path}: the file's name cannot be a target; rename it, such as {prefix}_mine.yaml")
        if path.stem in found:
            raise UserError(f"{path}: {place(found[path.stem])} has that name already; choose another")
        found[path.stem] = path
    return found


def load_table(name: str, config: Path = CONFIG) -> Table:
    """Read a table of the paper or of the user's own by name; an unknown name or key raises `UserError`."""
    files = table_files(config)
    known("table", name, files)
    return _own_table(files[name], config) if own.owns(files[name]) else load(Table, files[name], name)


def place_of_table(name: str, config: Path = CONFIG) -> str:
    """The file of a table as error messages name it."""
    return place(table_files(config).get(name, config / "paper" / f"{name}.yaml"))


def _own_table(path: Path, config: Path) -> OwnTable:
    if "extends" not in read_yaml(path):
        return load(OwnTable, path, path.stem)
    own_part, papers = load(Extension, path, path.stem), sorted((config / "paper").glob("*.yaml"))
    base = own_part.extends.table
    all_known("table of the paper", [base], [paper.stem for paper in papers], place(path))
    with user_errors(OwnTable, place(path)):
        return own_part.on_top_of(load_table(base, config))


def load_scale(name: str, config: Path = CONFIG) -> Scale:
    """Read `config/scales/<name>.yaml`; an unknown name or key raises `UserError`."""
    if name not in scale_names(config):
        raise unknown("scale", name, scale_names(config))
    return load(Scale, config / "scales" / f"{name}.yaml", name)


def load(model: type[M], path: Path, name: str) -> M:
    """Read a file that holds a single model, to which it gives the name `name`; a mistake raises `UserError`."""
    return parse(model, {"name": name, **read_yaml(path)}, place(path))


def place(path: Path) -> str:
    """A file's path as error messages show it: `config/...`, or the full path for a file of the user's own."""
    if own.owns(path):
        return str(path)
    folder = "" if path.parent.name == CONFIG.name else f"{path.parent.name}/"
    return f"config/{folder}{path.name}"


def published_weights(config: Path = CONFIG) -> list[Pretrained]:
    """All published weights that the columns of the tables name."""
    columns = (column for table in table_names(config) for column in load_table(table, config).columns)
    return [column.pretrained for column in columns if column.pretrained]


def entries(pattern: str, config: Path = CONFIG) -> dict[str, tuple[Any, str]]:
    """The entries of all files that match `pattern` in `config` and the user's own folder: name to (content, place).

    Raises `UserError` for a name that two files declare, and for a name of the user's own that cannot be part of a
    run's name.
    """
    found: dict[str, tuple[Any, str]] = {}
    for path in (*(sorted(config.glob(pattern)) or [config / pattern]), *own.files(pattern)):
        for name, content in read_yaml(path).items():
            if name in found:
                raise UserError(f"{place(path)} declares '{name}', as {found[name][1]} does; choose another name")
            if own.owns(path) and not own.NAME.fullmatch(str(name)):
                raise UserError(f"{place(path)}: '{name}' is not a name such as my-net-2; rename the entry")
            if not isinstance(content, Mapping):
                kind = "nothing" if content is None else type(content).__name__
                raise UserError(f"{place(path)}, '{name}': expected a mapping, found {kind}")
            found[name] = content, f"{place(path)}, '{name}'"
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; anything else raises `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def parse(model: type[M], content: Mapping[str, Any], where: str) -> M:
    """Validate a mapping against a model; a mistake raises `UserError` that names the place `where`."""
    with user_errors(model, where):
        return _adapter(model).validate_python(dict(content))


@functools.cache
def _adapter(model: type[M]) -> TypeAdapter[M]:
    return TypeAdapter(model)


@contextlib.contextmanager
def user_errors(model: type[Strict], where: str) -> Iterator[None]:
    """Turn a validation error inside the block into one `UserError` that names the place `where`."""
    try:
        yield
    except ValidationError as error:
        raise explain(error, model, where) from error
    except UserError as error:  # raised by options of the user's own
        raise UserError(f"{where}: {error}") from error


def all_known(kind: str, found: Iterable[str], valid: Iterable[str], where: str) -> None:
    """Raise `UserError` for the first name that is not among the valid ones."""
    for name in found:
        known(kind, name, valid, where)


def known(kind: str, name: str, valid: Iterable[str], where: str = "") -> str:
    """Return the name, or raise `UserError` if it is not among the valid ones; the place `where` has named it."""
    if name not in valid:
        raise UserError(f"{unknown(kind, name, valid, where)}{own.hint()}")
    return name


def expect_fields(model: type[Strict], fields: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` for a field that the model does not know or take; other fields may be missing."""
    if found := faults(model, fields):
        raise UserError(f"{where}: {'; '.join(found)}")
