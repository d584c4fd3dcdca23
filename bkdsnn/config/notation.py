"""`config/notation.yaml`: the entries of table 1. Free of torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import Field, model_validator

from bkdsnn.config.catalogue import CONFIG, load
from bkdsnn.config.strict import Strict

Axes = tuple[str | int, ...]
ARROW, TIMES = "\N{RIGHTWARDS ARROW}", "\N{MULTIPLICATION SIGN}"


class Dimension(Strict):
    """The name of an axis."""

    latex: str = Field(description="symbol in LaTeX")
    description: str = Field(description="what is counted along the axis")


class Entry(Strict):
    """One line of the table; several symbols may share a line."""

    key: str = Field(description="name of the entry, used by its test")
    symbol: str = Field(description="symbols as plain text, separated by a comma and a space")
    latex: str = Field(description="the same symbols in LaTeX, separated likewise")
    description: str = Field(description="what the symbols mean")
    code: str = Field(pattern=r"^(bkdsnn|spec)(\.\w+)+$", description="name to import, or place in the run's spec")
    shape: Axes = Field(default=(), description="names of dimensions, or lengths; none for a number")
    takes: Axes = Field(default=(), description="the shape that a module takes, where the entry is one")

    @property
    def symbols(self) -> dict[str, str]:
        """Its symbols, each with its LaTeX."""
        return dict(zip(self.symbol.split(", "), self.latex.split(", "), strict=True))

    @property
    def written_shape(self) -> str:
        """The shape in dimension names, such as `b × c_tea`; of a module both ends, `b × c_stu → b × c_tea`."""
        takes, gives = (f" {TIMES} ".join(map(str, axes)) for axes in (self.takes, self.shape))
        return f"{takes} {ARROW} {gives}" if takes else gives or "number"

    @model_validator(mode="after")
    def _as_many(self) -> Entry:
        found, expected = (text.count(", ") + 1 for text in (self.latex, self.symbol))
        if found != expected:
            raise ValueError(f"'latex' has {found} symbols and 'symbol' {expected}, expected one for one")
        return self


class Notation(Strict):
    """Table 1: its dimensions, entries and notes."""

    name: str = Field(description="name of the file")
    number: str = Field(description="number of the table in the paper")
    title: str = Field(description="subject of the table, for its caption")
    dimensions: dict[str, Dimension] = Field(description="axes of the shapes, by name")
    entries: tuple[Entry, ...] = Field(min_length=1, description="lines of the table, in order")
    notes: tuple[str, ...] = Field(default=(), description="sentences below the table")

    @model_validator(mode="after")
    def _consistent(self) -> Notation:
        for key, times in Counter(entry.key for entry in self.entries).items():
            if times > 1:
                raise ValueError(f"{times} entries have the key '{key}', expected one")
        for entry in self.entries:
            for axis in {*entry.takes, *entry.shape} - {*self.dimensions}:
                if isinstance(axis, str):
                    known = ", ".join(self.dimensions)
                    raise ValueError(f"entry '{entry.key}' has an axis '{axis}', expected one of: {known}")
        axes = {axis for entry in self.entries for axis in (*entry.takes, *entry.shape)}
        if idle := [name for name in self.dimensions if name not in axes]:
            raise ValueError(f"no entry has an axis '{idle[0]}', expected one: leave it out of 'dimensions'")
        return self

    @property
    def symbols(self) -> dict[str, str]:
        """The symbols of all entries, each with its LaTeX."""
        return {symbol: latex for entry in self.entries for symbol, latex in entry.symbols.items()}


def load_notation(config: Path = CONFIG) -> Notation:
    """Read `config/notation.yaml`; a mistake in it raises `UserError`."""
    return load(Notation, config / "notation.yaml", "notation")
