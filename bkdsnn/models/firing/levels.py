"""The potentials that matter to a neuron, measured from its reset potential: a hard reset then goes to 0."""

from __future__ import annotations

from typing import NamedTuple

from bkdsnn import config


class Levels(NamedTuple):
    """Where a neuron fires, where it starts, and what a soft reset takes away."""

    threshold: float
    start: float
    drop: float


def levels(neuron: config.Neuron) -> Levels:
    """Return the levels of a neuron."""
    rest = neuron.v_reset or 0.0
    return Levels(neuron.v_threshold - rest, neuron.v_init - rest, neuron.v_threshold)
