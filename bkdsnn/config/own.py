"""The user's own folder: its files, and the losses and networks that its Python files declare. Free of torch.

Python files in this folder are executed: those in `losses/` and `networks/` whenever `config/` is read, others when a
loss or network imports them to be built. Only a folder that the user has named is read. It is the package `own`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, WrapValidator, model_validator

from bkdsnn.config.identity import Part
from bkdsnn.core.errors import UserError, explain, suggest

OWN = "BKDSNN_OWN"
CATALOGUES = ("methods.yaml", "networks.yaml", "neurons.yaml", "quantised.yaml", "datasets.yaml")
ROOMS = ("recipes", "tables", "figures")  # folders of YAML files
WHERE_YAML_IS_SOUGHT = ("*.y*ml", "*/*.y*ml", *(f"{room}/*/**/*.y*ml" for room in ROOMS))
KINDS = ("method", "family")  # fields that name a loss, a network
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # names that can be part of a run's name
M = TypeVar("M")


class Own(Part):
    """Options of a loss or network of the user's own, which `build` makes."""

    code: str = Field(default="", description="first digits of the SHA-256 of the files that make it; never written")

    @model_validator(mode="before")
    @classmethod
    def _with_code(cls, content: Any) -> Any:
        return {**content, "code": content.get("code") or digest(cls)} if isinstance(content, Mapping) else content

    def build(self, *given: Any) -> Any:
        """Return the loss or network. Modules that need torch are imported in here, not at the head of the file."""
        raise NotImplementedError

    def built(self, *given: Any) -> Any:
        """Return the result of `build`. Raises `UserError` if the code has changed since the spec was written."""
        if self.code != digest(type(self)):
            raise UserError(f"{source(type(self))}: changed since the run was planned; start it anew, by its new name")
        with self.guarded(f"build of {type(self).__name__}"):
            return self.build(*given)

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn whatever the user's code raises inside the block, which does `what`, into one `UserError`."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise _failed(f"{source(type(self))}: {what}", error) from error


def folder() -> Path | None:
    """The user's own folder, or None if the user named none; a missing folder raises `UserError`."""
    named = os.environ.get(OWN)
    if not named:
        return None
    place = Path(os.path.expanduser(named))  # noqa: PTH111 - which leaves the ~ of an unknown user as it is
    if not place.is_dir():
        raise UserError(f"'own' (or {OWN}): no such folder: {place}")
    return place


def hint() -> str:
    """What to add to the message about an unknown name if the user has named no folder of their own."""
    return "" if folder() else f"; own folder: none; set --config own=DIR (in single commands {OWN}=DIR)"


def files(*patterns: str) -> list[Path]:
    """Sorted files of the user's own folder, if there is one. A YAML file that nothing reads raises `UserError`."""
    place = folder()
    if place is None:
        return []
    for path in sorted(path for pattern in WHERE_YAML_IS_SOUGHT for path in place.glob(pattern)):
        _expect_read(path, path.relative_to(place))
    return sorted(path for pattern in patterns for path in place.glob(pattern))


def _expect_read(path: Path, inside: Path) -> None:
    """Refuse a YAML file that nothing reads, unless it is another tool's: it or its folder is hidden."""
    valid = (*CATALOGUES, *(f"{room}/{path.stem}.yaml" for room in ROOMS))
    if str(inside) not in valid and not inside.parts[0].startswith("."):
        expected = ", ".join((*CATALOGUES, *(f"{room}/*.yaml" for room in ROOMS)))
        raise UserError(f"{path}: nothing reads it{suggest(str(inside), valid)}; expected one of: {expected}")


def owns(path: Path) -> bool:
    """Whether a file lies in the user's own folder."""
    place = folder()
    return place is not None and path.is_relative_to(place)


def classes(field: str) -> dict[str, type[Own]]:
    """The user's own losses (field `method`) or networks (field `family`) by name."""
    place = folder()
    found = [] if place is None else _classes(place.resolve())
    return {one.model_fields[field].default: one for one in found if field in one.model_fields}


def joined(field: str, ours: Mapping[str, type[M]]) -> dict[str, type[M]]:
    """Return the project's classes `ours` and the user's own; a name that both have raises `UserError`."""
    added: dict[str, Any] = classes(field)
    for name in added.keys() & ours.keys():
        places = f"{source(added[name])} declares {field} '{name}', which {ours[name].__module__} has already"
        raise UserError(f"{places}; choose another name")
    return {**ours, **added}


def or_own(field: str) -> WrapValidator:
    """Return a validator that also accepts the user's own classes for a union; `field` names the class."""

    def validate(value: Any, ours: Any) -> Any:
        name = value.get(field) if isinstance(value, Mapping) else getattr(value, field, None)
        model = classes(field).get(str(name))
        return ours(value) if model is None else _parsed(model, value, str(name))

    return WrapValidator(validate)


def _parsed(model: type[Own], value: Any, name: str) -> Own:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise explain(error, model, f"options of '{name}' ({source(model)})") from error


@functools.cache
def _classes(place: Path) -> list[type[Own]]:
    for known in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[known]  # modules of a folder that was named before
    package = sys.modules["own"] = types.ModuleType("own", f"The user's own folder {place}.")
    package.__path__ = [str(place)]
    paths = [path for kind in ("losses", "networks") for path in sorted((place / kind).glob("*.py"))]
    found: dict[tuple[str, str], type[Own]] = {}
    for one in (one for path in paths for one in _declared(path)):
        field = next((key for key in KINDS if key in one.model_fields), None)
        if (lacking := _lacking(one, field)) or field is None:
            raise UserError(
                f"{source(one)}: {one.__name__} lacks {lacking}; extend OwnLoss or OwnNetwork and define it"
            )
        name = one.model_fields[field].default
        if not NAME.fullmatch(str(name)):
            raise UserError(f"{source(one)}: {one.__name__}.{field} is {name!r}, expected a name such as 'my-{field}'")
        if (twin := found.setdefault((field, name), one)) is not one:
            raise UserError(f"{source(one)} and {source(twin)} both declare '{name}'; rename one")
    return list(found.values())


def _lacking(one: type[Own], field: str | None) -> str:
    if field is None:
        return f"a field {' or '.join(KINDS)}"
    if field == "family" and not hasattr(one, "fires"):
        return "`fires` and the other parts of a network"
    return "a method `build`" if one.build is Own.build else ""


def _declared(path: Path) -> Iterator[type[Own]]:
    """Import a file and yield the options classes that it declares."""
    had_torch = "torch" in sys.modules
    name = f"own.{path.parent.name}.{path.stem}"
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _failed(f"{path}: not imported", error) from error
    if "torch" in sys.modules and not had_torch:
        raise UserError(f"{path}: imports torch, and each job of the workflow reads this file; do so inside `build`")
    for one in vars(module).values():
        if isinstance(one, type) and issubclass(one, Own) and one.__module__ == name:
            yield one


def _failed(what: str, error: BaseException) -> UserError:
    """Report an error of the user's own code in one line, with the last line of this code that was reached."""
    place, raised = str((folder() or Path()).resolve()), traceback.extract_tb(error.__traceback__)
    lines = [f" ({one.filename}, line {one.lineno})" for one in raised if one.filename.startswith(place)]
    return UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}{''.join(lines[-1:])}")


def source(model: type[Any]) -> Path:
    """The file that declares a class."""
    return Path(inspect.getfile(model))


@functools.cache
def digest(model: type[Own]) -> str:
    """First ten digits of the SHA-256 of the file that declares a class and of all files of the folder it imports."""
    place = source(model).parents[1]
    reached, ahead = {}, [source(model)]
    while ahead:
        path = ahead.pop()
        reached[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        ahead += {file for file in _imports(path, place) if file.is_file()} - reached.keys()
    parts = sorted((str(path.relative_to(place)), digits) for path, digits in reached.items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


def _imports(path: Path, place: Path) -> Iterator[Path]:
    """Files of the user's own folder that a file may import, at its head or inside a function."""
    package = ".".join(("own", *path.relative_to(place).parent.parts))
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not valid Python: {error}") from error
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            if node.level > package.count(".") + 1:
                raise UserError(f"{path}, line {node.lineno}: the import leads out of the folder {place}")
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [module, *(f"{module}.{name}" for name in names)]
        for first, *rest in (name.split(".") for name in names):
            if first == "own" and rest:
                yield place.joinpath(*rest).with_suffix(".py")
