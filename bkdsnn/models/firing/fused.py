"""Spiking neurons in one pass forward and one backward.

Such passes take as long as the memory that they read and write. Of the forward pass nothing is kept but the currents,
in the dtype that they came in; the backward pass charges the membrane again, where it costs no memory. In bf16 a value
costs 4 bytes forward, 6 backward, and 2 in between; with a float32 membrane kept, as spikingjelly 2.0.0's kernels do,
8, 8 and 4.

Operations are those of `loop` in their order, products and sums rounded each, so that spikes are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bkdsnn import config


class Run(NamedTuple):
    """What is to be run: the neurons of one layer, through all time-steps, the same currents at each if `static`."""

    neuron: config.Neuron
    timesteps: int
    static: bool


class Engine(Protocol):
    """Runs neurons on one kind of device. Tensors are dense and in one order; `rate` () is a learned 1 / tau."""

    __name__: str

    def missing(self, neuron: config.Neuron, dtype: torch.dtype) -> str | None:
        """Say what the engine or this machine lacks to run such neurons; None if nothing."""

    def forward(self, x: Tensor, rate: Tensor | None, spikes: Tensor, run: Run) -> None:
        """Fill `spikes` (T*B, ...) with what the currents `x` give."""

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
