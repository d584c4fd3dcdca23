"""Which neurons an implementation can run: it states them, so that it is never given others to run in silence."""

from __future__ import annotations

from typing import NamedTuple

from bkdsnn import config

FIELDS = frozenset(
    {"kind", "tau", "decay_input", "v_threshold", "v_reset", "v_init", "detach_reset", "surrogate", "alpha"}
)


class Known(NamedTuple):
    """The kinds and surrogates of an implementation, and the fields of `config.Neuron` that it reads.

    `file` is where they are implemented. `surrogates` is None where every one will do.
    """

    file: str
    kinds: tuple[str, ...]
    surrogates: tuple[str, ...] | None
    fields: frozenset[str] = FIELDS

    def lacking(self, neuron: config.Neuron) -> str | None:
        """Say what such neurons have that the implementation lacks; None if nothing."""
        fields = type(neuron).model_fields
        strange = [name for name in fields if name not in self.fields and getattr(neuron, name) != fields[name].default]
        if strange:
            return f"{self.file} does not know '{strange[0]}' of a neuron"
        if neuron.kind not in self.kinds:
            return f"{self.file} has no kind '{neuron.kind}'"
        if self.surrogates is not None and neuron.surrogate not in self.surrogates:
            return f"{self.file} has no surrogate '{neuron.surrogate}'"
        return None
