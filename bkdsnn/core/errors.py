"""The one exception whose message users see, and helpers that word such messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class UserError(Exception):
    """Bad input: config, data, checkpoint, arguments or machine. The command line prints it and exits with 1."""


class Interrupted(Exception):
    """A time slice ended before the run did, and progress was saved; the command line exits with `RESUMABLE`."""


RESUMABLE = 75  # EX_TEMPFAIL: run the same command again to continue


def suggest(found: str, valid: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the valid name nearest to `found`, or an empty string."""
    near = difflib.get_close_matches(found, list(valid), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def unknown(kind: str, found: str, valid: Iterable[str], where: str = "") -> UserError:
    """Build the error for a name that is not one of `valid`."""
    names = sorted(valid)
    place = f" in {where}" if where else ""
    return UserError(f"unknown {kind} '{found}'{place}{suggest(found, names)}; expected one of: {', '.join(names)}")


def explain(error: ValidationError, model: type[BaseModel], where: str) -> UserError:
    """Turn a pydantic error into one message: the key, what was found, what was expected."""
    lines = [_line(item, model) for item in error.errors()]
    return UserError(f"{where}: " + "; ".join(lines))


def parsed(model: type[M], content: bytes, where: str, then: str = "") -> M:
    """Return a model from its JSON. Raises `UserError` if it does not fit; `then` tells what to do."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{explain(error, model, where)}{then}") from error


def faults(model: type[BaseModel], fields: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with some of a model's fields, judged one by one; the other fields may be missing."""
    try:
        model.model_validate(dict(fields))
    except ValidationError as error:
        return [_line(item, model) for item in error.errors() if item["loc"] and item["loc"][0] in fields]
    return []


def _line(item: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        valid = _fields_at(model, item["loc"][:-1])
        expected = f"; expected one of: {', '.join(valid)}" if valid else ""
        return f"unknown key '{key}'{suggest(str(item['loc'][-1]), valid)}{expected}"
    hint = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        hint = suggest(item["input"], item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    whole = not key or item["type"] == "missing" or isinstance(item["input"], Mapping)  # the message says it all
    shown = "" if whole else f", found {item['input']!r}"
    return (f"'{key}': " if key else "") + f"{_plain(item['msg'])}{shown}{hint}"


def _plain(message: str) -> str:
    """Replace Python's names of types in a message by YAML's."""
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", message)
    return message.replace("a valid tuple", "a list").removeprefix("Value error, ")


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Field names of the model reached by following `path`; union tags in the path select the member."""
    current: list[type[BaseModel]] = [model]
    for part in path:
        current = [found for one in current for found in _step(one, part)] or current
    return sorted({name for one in current for name in one.model_fields})


def _step(model: type[BaseModel], part: Any) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(part))
    if field is None:
        return [model] if _tagged(model, part) else []
    return _models_in(field.annotation)


def _tagged(model: type[BaseModel], part: Any) -> bool:
    return isinstance(part, str) and any(part == field.default for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
