"""Choosing the device that a run computes on, and moving tensors to and from it."""

from __future__ import annotations

import ctypes
import platform
import re
import resource
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bkdsnn.core.errors import UserError
from bkdsnn.machine import fork_server, gpus

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h


def choose(name: str, threads: int, keep_memory: bool = True) -> torch.device:
    """Return the device: `auto` (a free GPU if there are any), `cpu`, `cuda` (a free one) or `cuda:<n>`.

    A GPU that another process of this project uses is waited for. Raises `UserError` if a GPU is asked for and absent;
    there is no fall-back to the CPU. `keep_memory` concerns main memory, see `allocate`. TF32 is switched off.
    """
    torch.set_num_threads(threads)
    allocate(keep_memory)
    refuse_tf32()
    device = _named(name)
    if device.type != "cuda":
        return device
    torch.backends.cudnn.deterministic = True
    names = gpus.visible(torch.cuda.device_count())
    wanted = names if device.index is None else [names[device.index]]
    (taken,) = gpus.claim(wanted, 1, gpus.lock_folder())
    device = torch.device("cuda", names.index(taken))
    torch.cuda.set_device(device)  # also for kernels that do not name a device
    return device


def several(name: str, count: int) -> list[str]:
    """Return the names of `count` free GPUs, locked by this process for its child processes; none for the CPU.

    Raises `UserError` if the machine has fewer.
    """
    device, present = _named(name), torch.cuda.device_count()
    if device.type != "cuda":
        return []
    if device.index is not None or present < count:
        found = f"device '{name}'" if device.index is not None else f"{present} CUDA devices"
        raise UserError(f"the recipe's 'processes' is {count}, found {found}; expected as many GPUs, or device=cpu")
    return gpus.claim(gpus.visible(present), count, gpus.lock_folder())


def _named(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device '{name}'; expected auto, cpu, cuda or cuda:<n>") from error
    present = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= present:
        raise UserError(f"device '{name}' asked for, but {present} CUDA devices are present; use device=auto or cpu")
    return device


def refuse_tf32() -> None:
    """Make GPUs compute float32 in full; torch's default for convolutions, TF32, rounds factors to ten bits (D-176)."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def allocate(keep_memory: bool) -> None:
    """Make glibc keep freed memory, or return freed blocks of 1 MiB and more to the system at once.

    Requesting memory from the system again costs small networks a tenth of each step. Keeping it fragments memory: the
    unused gaps may take as much as the memory in use.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            libc.mallopt(parameter, 1 << (30 if keep_memory else 20))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on the device, copied without waiting for earlier work of a GPU.

    The tensor is pinned for that: a copy from pageable memory would wait.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetched(tensor: Tensor) -> Callable[[], Tensor]:
    """Start copying a tensor to the CPU; return a function that waits for the copy and returns it."""
    copy = tensor.to("cpu", non_blocking=True)  # torch pins the target of a copy from a GPU
    if tensor.device.type != "cuda":
        return lambda: copy
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait


def describe(device: torch.device) -> str:
    """Return a readable name of the device; for a CPU with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process in MiB: on the GPU that it uses, else in main memory with all that it imported."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _peak_main_memory_mb() + fork_server.unused_mb()


def _peak_main_memory_mb() -> float:
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, which counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # `getrusage` would begin with the peak of the process that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(peak) / 2**10
