"""Layers of settings: a later layer overrides an earlier one key by key; the origin of every value is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """Values by key, and the place (file and entry) that states them, such as `config/methods.yaml, 'bkdsnn'`."""

    place: str
    fields: Mapping[str, Any]


Parts = Mapping[str, list[Layer]]  # the layers of each part of a run, later ones over earlier ones


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return the effective value of every key: that of the last layer that has the key."""
    return {key: value for layer in layers for key, value in layer.fields.items()}


def origins(layers: Iterable[Layer]) -> dict[str, str]:
    """Return the place that each value of `merged` came from."""
    return {key: layer.place for layer in layers for key in layer.fields}


def within(layers: Iterable[Layer], key: str) -> list[Layer]:
    """Return layers of the mapping below `key`, from those layers that have this key."""
    return [Layer(layer.place, layer.fields[key]) for layer in layers if layer.fields.get(key)]
