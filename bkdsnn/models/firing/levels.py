"""The characteristic potentials of a neuron, relative to its reset potential, so that a hard reset sets V to 0."""

from __future__ import annotations

from typing import NamedTuple

from bkdsnn import config


class Levels(NamedTuple):
    """Threshold, initial potential, and the potential that a soft reset subtracts (`drop`)."""

    threshold: float
    start: float
    drop: float


def levels(neuron: config.Neuron) -> Levels:
    """Return the levels of a neuron."""
    rest = neuron.v_reset or 0.0
    return Levels(neuron.v_threshold - rest, neuron.v_init - rest, neuron.v_threshold)
