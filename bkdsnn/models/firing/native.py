"""Spiking neurons on a CPU: compiles `native.c` for each kind of neuron (0.1 s each) and calls the functions."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models.firing.fused import Run
from bkdsnn.models.firing.known import Known
from bkdsnn.models.firing.levels import levels

TYPES = {torch.float32: "float", torch.float64: "double"}
BLOCK = 1024  # neurons, as in native.c
ROOM = 2**17  # bytes that the compiled library needs at most
SHARE = 2**16  # neurons per thread from which a further thread pays off
SOURCE = Path(__file__).with_suffix(".c")
SURROGATES = ("atan", "sigmoid", "triangle", "rectangle")  # numbered as in native.c
KNOWN = Known("native.c", ("if", "lif", "plif"), SURROGATES)
# No -ffast-math and no fused multiply-add: spikes must equal those of the other implementations.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
FORM = ("-shared", "-fPIC", "-s", "-pipe")
TRIES = 3  # a signal to all processes of a job may kill the compiler, and must not change the choice of implementation


class Layer(ctypes.Structure):
    """The scalar arguments of a call, a structure that native.c declares likewise."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("tau", "rate", "threshold", "start", "drop", "alpha")),
        *((name, ctypes.c_int64) for name in ("steps", "is_static", "n")),
    ]


class Library:
    """The two functions for one kind of neuron. Raises `OSError` if they cannot be compiled or loaded.

    Raises `UserError` if they cannot be written. Falling back to torch's operations would be wrong here: these round
    differently, so the same run would give other numbers once there is space again.
    """

    def __init__(self, definitions: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = ctypes.CDLL(str(_built(Path(folder, "neurons.so"), definitions)))
        self.forward, self.backward = library.forward, library.backward
        self.forward.argtypes, self.backward.argtypes = arguments(tensors=2), arguments(tensors=4)
        self.backward.restype = ctypes.c_double


def _built(path: Path, definitions: tuple[str, ...]) -> Path:
    command = [*compiler(), *FLAGS, *FORM, *definitions, str(SOURCE), "-o", str(path), "-lm"]
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.returncode:
            return path
    _expect_room(path.with_suffix(".probe"))
    said = next(iter(done.stderr.splitlines()), "no message")
    raise OSError(f"{command[0]} ended with {done.returncode}: {said}")


def _expect_room(path: Path) -> None:
    try:
        path.write_bytes(bytes(ROOM))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; free space or fix the permissions, then rerun") from error


def arguments(tensors: int) -> list[Any]:
    """Return the types of a function's arguments: the layer, addresses of tensors, the first neuron and the last."""
    return [ctypes.POINTER(Layer), *[ctypes.c_void_p] * tensors, ctypes.c_int64, ctypes.c_int64]


@functools.cache
def compiler() -> list[str]:
    """Return the C compiler, $CC with its arguments, gcc, clang or cc. Raises `OSError` if there is none."""
    found = shlex.split(os.environ.get("CC", "")) or list(filter(None, map(shutil.which, ("gcc", "clang", "cc"))))[:1]
    if not found:
        raise FileNotFoundError("no C compiler: neither gcc, clang nor cc is installed, nor is one named in $CC")
    return found


@functools.cache
def library(neuron: config.Neuron, dtype: torch.dtype) -> Library:
    """Return the functions for such neurons; scalars such as `tau` are arguments, so one library serves all values."""
    flags = {"DECAY": neuron.decay_input, "SOFT": neuron.v_reset is None, "DETACH": neuron.detach_reset}
    numbers = {**flags, "SURROGATE": SURROGATES.index(neuron.surrogate)}
    defined = (f"-D{neuron.kind.upper()}", f"-DREAL={TYPES[dtype]}")
    return _compiled((*defined, *(f"-D{name}={int(value)}" for name, value in numbers.items())))


_compiled = functools.cache(Library)


def missing(neuron: config.Neuron, dtype: torch.dtype) -> str | None:
    """Say what native.c lacks to run such neurons, or this machine to compile it; None if nothing is missing."""
    if lacking := KNOWN.lacking(neuron):
        return lacking
    try:
        library(neuron, dtype)
    except OSError as error:
        return str(error)
    return None


def forward(x: Tensor, rate: Tensor | None, spikes: Tensor, run: Run) -> None:
    """Call the function, see `fused.Engine`."""
    layer, call = _layer(rate, spikes, run), library(run.neuron, x.dtype).forward
    _spread(lambda first, last: call(layer, x.data_ptr(), spikes.data_ptr(), first, last), layer.n)


def backward(x: Tensor, rate: Tensor | None, grad_spikes: Tensor, grad_x: Tensor, run: Run) -> Tensor | None:
    """Call the function, see `fused.Engine`."""
    layer, call = _layer(rate, grad_spikes, run), library(run.neuron, x.dtype).backward

    def part(first: int, last: int) -> float:
        charges = x.new_empty(run.timesteps, BLOCK)
        addresses = (tensor.data_ptr() for tensor in (x, grad_spikes, grad_x, charges))
        return float(call(layer, *addresses, first, last))

    total = sum(_spread(part, layer.n))
    return None if rate is None else rate.new_tensor(total)


def _layer(rate: Tensor | None, spikes: Tensor, run: Run) -> Layer:
    neuron = run.neuron
    numbers: dict[str, Any] = {"steps": run.timesteps, "is_static": run.static, "n": spikes.numel() // run.timesteps}
    share = 1 / neuron.tau if rate is None else float(rate)
    return Layer(tau=neuron.tau, rate=share, alpha=neuron.alpha, **levels(neuron)._asdict(), **numbers)


def _spread(call: Callable[[int, int], Any], count: int) -> list[Any]:
    """Call the function for all neurons, divided among as many threads as torch has, if there are enough of them."""
    threads = max(1, min(torch.get_num_threads(), count // SHARE))
    step = -(-count // (threads * BLOCK)) * BLOCK
    parts = [(first, min(first + step, count)) for first in range(0, count, step)]
    if len(parts) == 1:
        return [call(*parts[0])]
    return list(_pool(threads).map(lambda part: call(*part), parts))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="neurons")
