"""Spiking neurons as two kernels, one forward and one backward: what `neurons.Spiking` runs on a GPU.

Such kernels take as long as the memory that they read and write. Of the forward pass nothing is kept but the currents,
in the dtype that they came in; the backward pass charges the membrane again, in registers. In bf16 a value costs 4
bytes forward, 6 backward, and 2 in between; with a float32 membrane kept, as spikingjelly 2.0.0's kernels do, 8, 8
and 4.

A thread follows its own neurons through all T, by the operations of `neurons` in their order, none of them fused, so
that spikes are the same.
"""

from __future__ import annotations

import functools
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from bkdsnn import spec
from bkdsnn.models import kernels

BLOCK = 512  # neurons of one program
WARPS = 4


def fire(currents: Tensor, w: Tensor | None, neuron: spec.Neuron, timesteps: int, static: bool) -> Tensor:
    """Return spikes (T*B, ...) of currents (T*B, ...), or (B, ...) if `static`; `w` as in `neurons.Spiking`."""
    spikes: Tensor = _Fire.apply(currents, w, neuron, timesteps, static)
    return spikes


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, currents: Tensor, w: Tensor | None, neuron: spec.Neuron, timesteps: int, static: bool
    ) -> Tensor:
        layout = _layout(currents)
        x, rate = currents.contiguous(memory_format=layout), None if w is None else w.sigmoid()
        shape = ((timesteps if static else 1) * len(x), *x.shape[1:])
        spikes = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        ctx.save_for_backward(x, rate)
        ctx.neuron, ctx.timesteps, ctx.static, ctx.layout = neuron, timesteps, static, layout
        count = spikes.numel() // timesteps
        kernels.forward[(triton.cdiv(count, BLOCK),)](
            x, rate, spikes, count, T=timesteps, STATIC=static, **_constants(neuron), **_how(x)
        )
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, rate = ctx.saved_tensors
        grad = grad_spikes.contiguous(memory_format=ctx.layout)
        count = grad.numel() // ctx.timesteps
        programs = triton.cdiv(count, BLOCK)
        grad_x = torch.empty_like(x)
        parts = None if rate is None else rate.new_empty(programs, dtype=torch.promote_types(x.dtype, torch.float32))
        kernels.backward[(programs,)](
            x, rate, grad, grad_x, parts, count, T=ctx.timesteps, STATIC=ctx.static, DETACH=ctx.neuron.detach_reset,
            SURROGATE=ctx.neuron.surrogate, ALPHA=ctx.neuron.alpha, **_constants(ctx.neuron), **_how(x),
        )  # fmt: skip
        grad_w = None if parts is None else (parts.sum() * rate * (1 - rate)).to(rate.dtype)
        return grad_x, grad_w, None, None, None


@functools.cache
def missing() -> str | None:
    """Say what this machine lacks for Triton to compile the code that starts a kernel; None if nothing."""
    if not (os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang")))):
        return "Triton needs a C compiler, and neither gcc nor clang is installed, nor one named in $CC"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.exists() else f"Triton needs the C headers of Python, and {header} is missing"


def _layout(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _how(x: Tensor) -> dict[str, Any]:
    """Return what a launch is told besides the neuron. Without fusion of products and sums spikes are the loop's."""
    membrane = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"MEMBRANE": membrane, "SIZE": BLOCK, "num_warps": WARPS, "enable_fp_fusion": False}


def _constants(neuron: spec.Neuron) -> dict[str, Any]:
    """Return what a kernel is compiled for; potentials are measured from the reset potential."""
    rest = neuron.v_reset or 0.0
    return {
        "KIND": neuron.kind,
        "TAU": neuron.tau,
        "DECAY": neuron.decay_input,
        "THRESHOLD": neuron.v_threshold - rest,
        "START": neuron.v_init - rest,
        "DROP": neuron.v_threshold,
        "SOFT": neuron.v_reset is None,
    }
