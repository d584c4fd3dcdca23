"""The identity of a run: the part of its description from which its name is computed.

New fields must not rename existing runs. Example: `Recipe` gets a field `ema: float = 0.0`. A run with `ema` 0.0 keeps
its name, because a field enters the identity only if it differs from its recorded default; a run with `ema` 0.9 gets a
new name. If LaSNN is changed to compute something else, its class is given `version: ClassVar[int] = 2`, and all runs
with LaSNN, and the runs that build on them, get new names.

`identity.json`, beside this file, records for each class which fields always enter and the defaults of the others. A
recorded default never changes: if the default in the code changes, runs that rely on it differ from the record and get
new names, while runs that set the field keep theirs. Classes without a record, such as a user's own, are compared with
their present defaults.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from bkdsnn.config.strict import Strict


class FieldRecord(TypedDict):
    """Fields of one class: those that always enter the identity, and the defaults at which the others are left out."""

    always: list[str]
    defaults: dict[str, Any]


BASELINE = Path(__file__).with_name("identity.json")
RECORDED: dict[str, FieldRecord] = json.loads(BASELINE.read_text())


class Part(Strict):
    """Base of all models that a run's description consists of.

    Raise `version` when a code change makes runs with this part compute something else. If that concerns a single value
    of one field, raise that value's number in `revised` instead, such as `{"format=image-folder": 2}`. Fields in
    `outside` decide no number of the run itself: the description has them, the identity does not.
    """

    version: ClassVar[int] = 1
    revised: ClassVar[Mapping[str, int]] = {}
    outside: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """Return, ready for JSON, how this part differs from version 1 with the recorded defaults."""
        left_out, found = _left_out(type(self)), dict[str, Any](self._raised())
        for name in _names(type(self)):
            value = _plain(getattr(self, name))
            if name not in left_out or value != left_out[name]:
                found[name] = value
        return found

    def raised(self) -> dict[str, int]:
        """Return the versions above 1 of this part and of all parts in it, such as `{"LaSNN.version": 2}`."""
        found = {f"{type(part).__name__}.{key}": number for part in _parts(self) for key, number in part._raised()}
        return dict(sorted(found.items()))

    def _raised(self) -> list[tuple[str, int]]:
        own = [("version", self.version)] if self.version != 1 else []
        return own + [(option, number) for option, number in self.revised.items() if self._has(option)]

    def _has(self, option: str) -> bool:
        name, _, value = option.partition("=")
        return str(getattr(self, name)) == value


def record(part: type[Part]) -> FieldRecord:
    """Return the record to add to `identity.json` for a new class."""
    given = _defaults(part)
    always = [name for name in _names(part) if name not in given]
    return {"always": always, "defaults": {name: _plain(value) for name, value in given.items()}}


@functools.cache
def _names(part: type[Part]) -> list[str]:
    """The fields of a class that can enter an identity; labels and notes (`exclude=True`) and `outside` cannot."""
    return [name for name, field in part.model_fields.items() if not field.exclude and name not in part.outside]


def _defaults(part: type[Part]) -> dict[str, Any]:
    fields = {name: part.model_fields[name] for name in _names(part)}
    optional = {name: field for name, field in fields.items() if not (field.is_required() or _is_tag(field))}
    return {name: field.get_default(call_default_factory=True) for name, field in optional.items()}


@functools.cache
def _left_out(part: type[Part]) -> dict[str, Any]:
    """The values at which fields are left out: the recorded defaults, for unrecorded fields the present ones."""
    recorded = _recorded(part)
    later = {name: value for name, value in _defaults(part).items() if name not in recorded["always"]}
    unraised = {name: value for name, value in later.items() if not any(one._raised() for one in _parts(value))}
    return {name: _plain(value) for name, value in unraised.items()} | recorded["defaults"]


def _recorded(part: type[Part]) -> FieldRecord:
    """The record of a class, or of its nearest base that has one; a user's own class never has a record."""
    ours = [one.__name__ for one in part.__mro__ if one.__module__.startswith("bkdsnn.")]
    return next((RECORDED[name] for name in ours if name in RECORDED), FieldRecord(always=[], defaults={}))


def _is_tag(field: FieldInfo) -> bool:
    """Whether a field has only one possible value, by which pydantic finds its class in a union."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Part):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return to_jsonable_python(value)


def _parts(value: Any) -> Iterator[Part]:
    """Every part in a value, itself included."""
    if isinstance(value, Part):
        yield value
        value = vars(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for one in value:
        yield from _parts(one)
