"""Spiking neurons, all time-steps at once.

A neuron charges its membrane with the input current, fires where the charged potential H reaches the threshold, and
resets: H[t] = charge(V[t-1], X[t]), S[t] = H[t] >= v_threshold, V[t] = reset(H[t], S[t]); see `config.Neuron`.

Shapes: T time-steps, B images, `...` the dimensions of one image's activations (C H W, or features). Activations are
folded, (T*B, ...), time-major. Neurons keep no state between calls: the membrane starts at `v_init` in each.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.models.firing import fused, loop, native


class Spiking(nn.Module):
    """The neurons of one layer: currents (T*B, ...) in, spikes 0 or 1 of the same shape and dtype out.

    A `static` layer takes currents (B, ...) and uses them at every step; these are the first neurons of a network for
    still images. For `plif` neurons 1 / tau = sigmoid(w), where `w` is a parameter of the layer, one number (Fang et
    al., ICCV 2021); for other kinds `w` is None. Raises `UserError` for a `plif` neuron with tau = 1, which no w gives,
    and for a neuron that has no implementation.
    """

    def __init__(self, neuron: config.Neuron, timesteps: int, static: bool = False) -> None:
        super().__init__()
        if lacking := loop.KNOWN.lacking(neuron):
            raise UserError(f"{lacking}, and there is no other implementation; add it there, or choose another neuron")
        self.neuron = neuron
        self.timesteps = timesteps
        self.static = static
        self.w = nn.Parameter(torch.tensor(_first_w(neuron))) if neuron.kind == "plif" else None

    def forward(self, currents: Tensor) -> Tensor:
        """Return spikes (T*B, ...)."""
        engine = _engine(currents.device.type, currents.dtype, self.neuron)
        fire = loop.fire if engine is None else functools.partial(fused.fire, engine)
        return fire(currents, self.w, self.neuron, self.timesteps, self.static)

    def extra_repr(self) -> str:
        """Return the settings of the neurons, shown when the module is printed."""
        return f"{self.neuron.kind}, v_threshold={self.neuron.v_threshold}, T={self.timesteps}, static={self.static}"


def implementation(device: torch.device, dtype: torch.dtype, neuron: config.Neuron) -> str:
    """Return the name of the module of `firing` that runs such neurons: `gpu`, `native`, or else `loop`."""
    engine = _engine(device.type, dtype, neuron)
    return "loop" if engine is None else engine.__name__.rpartition(".")[2]


def implementations(network: nn.Module) -> list[str]:
    """Return the names of all implementations that run a network's neurons on its device; none for an ANN."""
    found = {part.neuron for part in network.modules() if isinstance(part, Spiking)}
    where = next(network.parameters())
    return sorted({implementation(where.device, where.dtype, neuron) for neuron in found})


@functools.cache
def _engine(device: str, dtype: torch.dtype, neuron: config.Neuron) -> fused.Engine | None:
    """Return the engine that runs all steps of such neurons in one pass, or None, with a warning per missing part."""
    name = {"cpu": "native", "cuda": "gpu"}.get(device)
    if name is None or (device == "cpu" and dtype not in native.TYPES):
        return None
    try:
        engine: Any = importlib.import_module(f"bkdsnn.models.firing.{name}")
    except ImportError as error:
        reason: str | None = str(error)
    else:
        reason = engine.missing(neuron, dtype)
    if reason is None:
        return engine
    _warn(device, reason)
    return None


@functools.cache
def _warn(device: str, reason: str) -> None:
    log.warning("neurons run as single operations on '%s', and training is slower: %s", device, reason)


def _first_w(neuron: config.Neuron) -> float:
    """Solve sigmoid(w) = 1 / tau."""
    if neuron.tau == 1:
        raise UserError("a neuron of kind 'plif' has 'tau' 1, expected more: 1 / tau = sigmoid(w) is below 1 for all w")
    return -math.log(neuron.tau - 1)
