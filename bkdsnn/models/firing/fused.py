"""Spiking neurons in one fused pass forward and one backward.

The time of such a pass is that of its memory traffic. Saved for backward: only the input currents, in their own dtype;
the backward pass recomputes the membrane potential in registers or cache. In bf16 the passes move 4 bytes per value
forward and 6 backward, and store 2 in between. With a stored float32 membrane, as in the kernels of spikingjelly 2.0.0,
these would be 8, 8 and 4.

Operations and their order are those of `loop`, and each product and sum is rounded separately, so spikes are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bkdsnn import config


class Run(NamedTuple):
    """The arguments of a pass: neurons, number of time-steps; `static` if all steps have the same input currents."""

    neuron: config.Neuron
    timesteps: int
    static: bool


class Engine(Protocol):
    """Runs neurons on one kind of device. Tensors are dense in one memory format; `rate` () is a learned 1 / tau."""

    __name__: str

    def missing(self, neuron: config.Neuron, dtype: torch.dtype) -> str | None:
        """Say what the engine or this machine lacks to run such neurons; None if it can run them."""

    def forward(self, x: Tensor, rate: Tensor | None, spikes: Tensor, run: Run) -> None:
        """Fill `spikes` (T*B, ...) with the spikes that the currents `x` cause."""

    def backward(self, x: Tensor, rate: Tensor | None, grad_spikes: Tensor, grad_x: Tensor, run: Run) -> Tensor | None:
        """Fill `grad_x` with dL/dx and return dL/drate (), None where there is no rate."""


def fire(
    engine: Engine, currents: Tensor, w: Tensor | None, neuron: config.Neuron, timesteps: int, static: bool
) -> Tensor:
    """Return spikes (T*B, ...) of currents (T*B, ...), or (B, ...) if `static`; `w` as in `neurons.Spiking`."""
    spikes: Tensor = _Fire.apply(currents, w, Run(neuron, timesteps, static), engine)
    return spikes


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor, w: Tensor | None, run: Run, engine: Engine) -> Tensor:
        ctx.layout, ctx.run, ctx.engine = _layout(currents), run, engine
        x, rate = currents.contiguous(memory_format=ctx.layout), None if w is None else w.sigmoid()
        ctx.save_for_backward(x, rate)
        shape = ((run.timesteps if run.static else 1) * len(x), *x.shape[1:])
        spikes = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=ctx.layout)
        engine.forward(x, rate, spikes, run)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, rate = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_rate = ctx.engine.backward(x, rate, grad_spikes.contiguous(memory_format=ctx.layout), grad_x, ctx.run)
        grad_w = None if grad_rate is None else (grad_rate * rate * (1 - rate)).to(rate.dtype)
        return grad_x, grad_w, None, None


def _layout(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
