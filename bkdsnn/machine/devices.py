"""Which device a run computes on."""

from __future__ import annotations

import ctypes
import platform
import resource
from collections.abc import Callable

import torch
from torch import Tensor

from bkdsnn.core.errors import UserError
from bkdsnn.machine import gpus

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and values of glibc's malloc.h


def choose(name: str, threads: int, keep_memory: bool = True) -> torch.device:
    """Return the device: `auto` (a free GPU if there are any), `cpu`, `cuda` (a free one) or `cuda:<n>`.

    A GPU that another process of ours computes on is waited for. Raises `UserError` if a GPU is asked for and absent:
    nothing falls back in silence. `keep_memory` is about the CPU's, see `allocate`; TF32 is refused.
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
    torch.cuda.set_device(device)  # kernels that name no device use it too
    return device


def several(name: str, count: int) -> list[str]:
    """Return the names of `count` free GPUs, which this process holds for those that it starts; none for the CPU.

    Raises `UserError` if there are too few.
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
    """Let GPUs compute in float32 what is float32; torch allows TF32 in convolutions: factors of ten bits (D-176)."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def allocate(keep_memory: bool) -> None:
    """Tell glibc to keep freed memory, or to return pieces of 1 MiB and more at once.

    Asking the kernel for it again costs small networks a tenth of each step; keeping it leaves holes that may take as
    much as what is in use.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            libc.mallopt(parameter, 1 << (30 if keep_memory else 20))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on the device; nobody waits for what a GPU still has to do.

    A copy from memory that is not pinned would.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetched(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; return a function that waits for the copy, and returns it."""
    copy = tensor.to("cpu", non_blocking=True)  # from a GPU into pinned memory
    if tensor.device.type != "cuda":
        return lambda: copy
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait


def describe(device: torch.device) -> str:
    """Name the device for people, with its threads if it is a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process in MiB: on the GPU that it uses, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
