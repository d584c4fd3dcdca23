"""QCFS (Bu et al., ICLR 2022): an ANN activation, and the spiking neuron that reproduces it exactly.

Both modules have a single parameter, theta, of the same name and shape. A network is therefore converted by loading its
state dict into its spiking form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bkdsnn import config
from bkdsnn.models.neurons import Spiking

# In units of theta: threshold theta, soft reset, membrane theta / 2 before the first step. Conversion trains nothing,
# so the surrogate is never used.
CONVERTED = config.Neuron(kind="if", v_threshold=1.0, v_reset=None, v_init=0.5, surrogate="triangle", alpha=1.0)


class ClipFloor(nn.Module):
    """clip(floor(x L / theta + 1/2) / L, 0, 1) theta, of any shape; theta is learned, one per layer.

    The gradient passes the floor function unchanged (straight through) and is zero outside [0, theta] (D-060).
    """

    def __init__(self, quantised: config.Quantised) -> None:
        super().__init__()
        self.levels = quantised.levels
        self.theta = nn.Parameter(torch.tensor(quantised.init))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, of the shape of `x`: multiples of theta / L."""
        scaled = (x / self.theta).clamp(0, 1) * self.levels
        return _StraightFloor.apply(scaled + 0.5) / self.levels * self.theta


class SpikingClipFloor(nn.Module):
    """The neurons that replace `ClipFloor`: currents (T*B, ...), or (B, ...) if static, to spikes times theta.

    After T = L steps of constant current the mean of the spikes is the activation. For inference only.
    """

    def __init__(self, quantised: config.Quantised, timesteps: int, static: bool = False) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(quantised.init))
        self.spiking = Spiking(CONVERTED, timesteps, static)

    def forward(self, currents: Tensor) -> Tensor:
        """Return (T*B, ...), each value 0 or theta."""
        return self.spiking(currents / self.theta) * self.theta


class _StraightFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad
