"""The checked table: everything that a renderer may print, and nothing that it would have to compute."""

from __future__ import annotations

from dataclasses import dataclass

from bkdsnn.report.notation.notation_plan import Axes, Entry, NotationPlan

ARROW, TIMES = "\N{RIGHTWARDS ARROW}", "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Line:
    """A checked entry; `live` are the lengths behind its shape, or the number that it is."""

    entry: Entry
    live: str

    @property
    def shape(self) -> str:
        """The shape by names, `b × c_tea`; of a module, what it takes and what it gives."""
        return mapping(self.entry.takes, self.entry.shape)


@dataclass(frozen=True)
class NotationTable:
    """Every line, the length of every dimension, and remarks, the table's own and those on this run."""

    plan: NotationPlan
    lines: tuple[Line, ...]
    lengths: dict[str, int]
    notes: tuple[str, ...]


def mapping(takes: Axes, gives: Axes) -> str:
    """Write what a module takes and gives, `b × c_stu → b × c_tea`; of anything else, its shape."""
    return f"{written(takes)} {ARROW} {written(gives)}" if takes else written(gives)


def written(axes: Axes) -> str:
    """Write a shape, `b × c_tea` or `25 × 64`; one without axes is a `number`."""
    return f" {TIMES} ".join(map(str, axes)) or "number"
