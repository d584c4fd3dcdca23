"""Spiking neurons on a GPU: launches the Triton kernels, in which each lane runs one neuron through all T steps."""

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

from bkdsnn import config
from bkdsnn.models.firing import kernels
from bkdsnn.models.firing.fused import Run
from bkdsnn.models.firing.known import Known
from bkdsnn.models.firing.levels import levels

BLOCK = 512  # neurons of one program
WARPS = 4
KNOWN = Known("kernels.py", ("if", "lif", "plif"), kernels.SURROGATES)


def missing(neuron: config.Neuron, dtype: torch.dtype) -> str | None:
    """Say what the kernels lack to run such neurons, or this machine to start them; None if nothing."""
    return KNOWN.lacking(neuron) or _lacking()


@functools.cache
def _lacking() -> str | None:
    """Say what Triton lacks to compile the code that starts a kernel."""
    if not (os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang")))):
        return "Triton needs a C compiler; neither gcc nor clang is installed, nor is one named in $CC"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.exists() else f"Triton needs the C headers of Python, and {header} is missing"


def forward(x: Tensor, rate: Tensor | None, spikes: Tensor, run: Run) -> None:
    """Run the kernel, see `fused.Engine`."""
    count = spikes.numel() // run.timesteps
    kernels.forward[(triton.cdiv(count, BLOCK),)](x, rate, spikes, count, **constants(run), **how(x))


def backward(x: Tensor, rate: Tensor | None, grad_spikes: Tensor, grad_x: Tensor, run: Run) -> Tensor | None:
    """Run the kernel, see `fused.Engine`; each program sums its share of dL/drate, so the order of sums is fixed."""
    count = grad_spikes.numel() // run.timesteps
    programs = triton.cdiv(count, BLOCK)
    parts = None if rate is None else rate.new_empty(programs, dtype=torch.promote_types(x.dtype, torch.float32))
    more = {**slopes(run.neuron), **constants(run), **how(x)}
    kernels.backward[(programs,)](x, rate, grad_spikes, grad_x, parts, count, **more)
    return None if parts is None else parts.sum()


def constants(run: Run) -> dict[str, Any]:
    """Return the compile-time constants of both kernels."""
    neuron, at = run.neuron, levels(run.neuron)
    kind = {"KIND": neuron.kind, "TAU": neuron.tau, "DECAY": neuron.decay_input, "SOFT": neuron.v_reset is None}
    potentials = {"THRESHOLD": at.threshold, "START": at.start, "DROP": at.drop}
    return {"T": run.timesteps, "STATIC": run.static, **kind, **potentials}


def slopes(neuron: config.Neuron) -> dict[str, Any]:
    """Return the further compile-time constants of the backward kernel."""
    return {"DETACH": neuron.detach_reset, "SURROGATE": neuron.surrogate, "ALPHA": neuron.alpha}


def how(x: Tensor) -> dict[str, Any]:
    """Return the compile options of a kernel. Fused multiply-adds are off: spikes could differ from those of a CPU."""
    membrane = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"MEMBRANE": membrane, "SIZE": BLOCK, "num_warps": WARPS, "enable_fp_fusion": False}
