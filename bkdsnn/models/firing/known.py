"""Every implementation declares which neurons it can run, so that it never silently runs others wrongly."""

from __future__ import annotations

from typing import NamedTuple

from bkdsnn import config

FIELDS = frozenset(
    {"kind", "tau", "decay_input", "v_threshold", "v_reset", "v_init", "detach_reset", "surrogate", "alpha"}
)


class Known(NamedTuple):
    """The kinds and surrogates of an implementation, and the fields of `config.Neuron` that it reads.

    `file` contains the implementation. `surrogates` is None if it can run all of them.
    """

    file: str
    kinds: tuple[str, ...]
    surrogates: tuple[str, ...] | None
    fields: frozenset[str] = FIELDS

    def lacking(self, neuron: config.Neuron) -> str | None:
        """Say which feature of such neurons the implementation lacks; None if it can run them."""
        fields = type(neuron).model_fields
        strange = [name for name in fields if name not in self.fields and getattr(neuron, name) != fields[name].default]
        if strange:
            return f"{self.file} does not know '{strange[0]}' of a neuron"
        if neuron.kind not in self.kinds:
            return f"{self.file} has no kind '{neuron.kind}'"
        if self.surrogates is not None and neuron.surrogate not in self.surrogates:
            return f"{self.file} has no surrogate '{neuron.surrogate}'"
        return None
