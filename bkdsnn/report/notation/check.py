"""Entries of table 1 against what a run really computes: names, shapes, values. Whatever differs is an error."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError, unknown
from bkdsnn.report.notation.notation_entries import Line, NotationTable, mapping, written
from bkdsnn.report.notation.notation_plan import Axes, Entry, NotationPlan
from bkdsnn.report.notation.trace import Quantity, Trace

Quantities = Mapping[str, Quantity]


def check(plan: NotationPlan, found: Trace) -> NotationTable:
    """Compare every entry with what was found.

    Raises `UserError`, naming entry, found and expected, for a name in the code that is not that of the quantity, a
    shape that does not hold with one length per dimension, and values that are not what they should be.
    """
    lengths = Lengths()
    for entry in plan.notation.entries:
        if entry.key not in found.quantities:
            raise unknown("key of an entry", entry.key, found.quantities, "config/notation.yaml")
        quantity = found.quantities[entry.key]
        _check_code(entry, quantity, plan.spec)
        _check_shapes(entry, quantity, lengths)
        if entry.key in VALUES and (wrong := VALUES[entry.key](found.quantities)):
            raise _mismatch(entry, wrong)
    lines = tuple(Line(entry, _live(found.quantities[entry.key])) for entry in plan.notation.entries)
    return NotationTable(plan, lines, lengths.known, (*plan.notation.notes, *_remarks(found)))


class Lengths:
    """The length of each dimension, bound where its name is met first."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.origin: dict[str, str] = {}

    def hold(self, entry: Entry, axes: Axes, shape: tuple[int, ...]) -> None:
        """Hold a shape against the names of its axes. Raises `UserError` where one of them has another length."""
        whole = f"the shape is {written(shape)}, expected {written(axes)}"
        if len(axes) != len(shape):
            raise _mismatch(entry, f"{whole}: found {len(shape)} axes, expected {len(axes)}")
        for axis, length in zip(axes, shape):
            expected, origin = self._expected(entry, axis, length)
            if length != expected:
                raise _mismatch(entry, f"{whole}: '{axis}' is {length}, expected {expected}{origin}")

    def _expected(self, entry: Entry, axis: str | int, length: int) -> tuple[int, str]:
        if isinstance(axis, int):
            return axis, ""
        origin = self.origin.setdefault(axis, entry.key)
        return self.known.setdefault(axis, length), f" as in entry '{origin}'"


def resolve(code: str, spec: RunSpec) -> Any:
    """Return what a dotted name stands for: a place in `spec`, a term by its method, or else what it imports."""
    if not code.startswith("spec."):
        return pkgutil.resolve_name(code)
    thing: Any = spec
    for part in code.split(".")[1:]:
        thing = {term.method: term for term in thing}[part] if isinstance(thing, tuple) else getattr(thing, part)
    return thing


def _check_code(entry: Entry, quantity: Quantity, spec: RunSpec) -> None:
    try:
        thing = resolve(entry.code, spec)
    except (ImportError, AttributeError, KeyError) as error:
        raise _mismatch(entry, f"no '{entry.code}' in the code ({error}), expected '{quantity.code}'") from error
    if entry.code != quantity.code:
        raise _mismatch(entry, f"'code' is '{entry.code}', expected '{quantity.code}'")
    if entry.code.startswith("spec.") and thing != quantity.values[0]:
        raise _mismatch(entry, f"the network has {quantity.values[0]}, expected {thing}, '{entry.code}' of the run")


def _check_shapes(entry: Entry, quantity: Quantity, lengths: Lengths) -> None:
    if bool(entry.takes) != (quantity.takes is not None):
        expected = "none, for it is no module" if quantity.takes is None else "what the module is fed with"
        raise _mismatch(entry, f"'takes' is {written(entry.takes) if entry.takes else 'none'}, expected {expected}")
    if quantity.takes is not None:
        lengths.hold(entry, entry.takes, tuple(quantity.takes.shape))
    if not quantity.values:
        raise _mismatch(entry, f"the step never called '{entry.code}', expected one call or more")
    for value in quantity.values:
        lengths.hold(entry, entry.shape, tuple(value.shape) if isinstance(value, Tensor) else ())


def _mismatch(entry: Entry, what: str) -> UserError:
    return UserError(
        f"config/notation.yaml, entry '{entry.key}': {what}; correct the entry, or the code if that is wrong"
    )


# --- values: each check returns what is wrong, or nothing


def _random_matrix(found: Quantities) -> str:
    r = found["random_matrix"].value
    return "" if r.min() >= 0 and r.max() < 1 else f"values lie in {_range(r)}, expected in [0, 1)"


def _blur_mask(found: Quantities) -> str:
    b, r, ratio = found["blur_mask"].value, found["random_matrix"].value, found["blur_ratio"].values[0]
    if not ((b == 0) | (b == 1)).all():
        return f"values lie in {_range(b)}, expected 0 and 1 alone"
    wrong = int((b.bool() != (r >= ratio)).sum())
    return (
        f"{wrong} of {b.numel()} values are not 0 where R is below {ratio} and 1 elsewhere, expected none"
        if wrong
        else ""
    )


def _probabilities(key: str) -> Callable[[Quantities], str]:
    def wrong(found: Quantities) -> str:
        for q in found[key].values:
            assert isinstance(q, Tensor)
            sums = q.sum(1, dtype=torch.float64)
            if q.min() < 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
                return f"values lie in {_range(q)}, expected >= 0, and their sums in {_range(sums)}, expected 1"
        return ""

    return wrong


def _mean_feature(found: Quantities) -> str:
    feature, mean = found["student_feature"].value, found["mean_feature"].value
    away = float((feature.double().mean(0) - mean).abs().max())
    tolerance = 1e-5 * max(1.0, float(feature.abs().max()))
    return "" if away <= tolerance else f"is up to {away:.3g} away from the mean of F_stu over T, expected 0"


def _restoration(found: Quantities) -> str:
    taken, adapted, mask = found["restoration"].takes, found["adapter"].value, found["blur_mask"].value
    assert taken is not None
    return (
        "" if torch.equal(taken, adapted * mask.to(adapted.device)) else "is fed with another map than f_adp(...) * B"
    )


def _restored(found: Quantities) -> str:
    same = torch.equal(found["restored"].value, found["restoration"].value)
    return "" if same else "is another map than G gives"


VALUES: dict[str, Callable[[Quantities], str]] = {
    "random_matrix": _random_matrix,
    "blur_mask": _blur_mask,
    "labels": _probabilities("labels"),
    "softened": _probabilities("softened"),
    "mean_feature": _mean_feature,
    "restoration": _restoration,
    "restored": _restored,
}


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.4g} to {float(values.max()):.4g}"


# --- what the table shows


def _live(quantity: Quantity) -> str:
    first = quantity.values[0]
    if not isinstance(first, Tensor):
        return str(first)
    shape = mapping(tuple(quantity.takes.shape) if quantity.takes is not None else (), tuple(first.shape))
    return shape if quantity.stored is None else f"{shape} (one-hot; kept as {written(quantity.stored)})"


def _remarks(found: Trace) -> Iterator[str]:
    """What a reader must know of this very run."""
    if found.quantities["labels"].stored is None:
        yield "ŷ holds probabilities: this run mixes images or smooths labels."
    else:
        yield "ŷ is kept as class numbers; with mixed images or smoothed labels it holds probabilities."
    adapter = found.quantities["adapter"]
    grid = tuple(adapter.value.shape[-2:])
    if found.teacher_grid != grid:
        yield f"The teacher's map is {written(found.teacher_grid)}; F_tea is that map on the student's grid."
    if adapter.takes is adapter.value:
        yield "The widths of student and teacher agree here, so that f_adp is nothing (second case of Eq. 4)."
