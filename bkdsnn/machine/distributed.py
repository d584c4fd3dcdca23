"""Data-parallel training of one run by several processes: their ranks, collective operations and start.

Every process derives the same global batches from the same random draws and trains on its own rows of them. Gradients
are averaged, so all processes hold the same weights. Only process 0 writes files. Rank and address are read from
torchrun's environment variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so either torchrun or
`launch` can start the processes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bkdsnn.core.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

PATIENCE = datetime.timedelta(days=1)  # time-out; process 0 may have to wait for another writer of its run


class Group:
    """The processes of one run, numbered from 0. `Group()` is a single process, which needs no communication."""

    def __init__(self, rank: int = 0, size: int = 1, control: ProcessGroup | None = None) -> None:
        self.rank, self.size, self._control = rank, size, control

    @property
    def main(self) -> bool:
        """Whether this is process 0, the one that writes files."""
        return self.rank == 0

    def rows(self, batch: Tensor) -> Tensor:
        """Return this process's rows (B / size, ...) of a global batch (B, ...)."""
        return batch if self.size == 1 else batch.chunk(self.size)[self.rank]

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows (B / size, ...) of all processes as one global batch (B, ...)."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return self._reduced(values, "SUM")

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes."""
        return values if self.size == 1 else self.total(values) / self.size

    def largest(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over the processes."""
        return self._reduced(values, "MAX")

    def highest(self, number: float, device: torch.device) -> float:
        """Return the maximum over the processes of one number each."""
        return float(self.largest(torch.tensor(number, dtype=torch.float64, device=device)))

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether any process has set it; this happens on the CPU and does not wait for a GPU."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.uint8)
        torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX, group=self._control)
        return [bool(flag) for flag in raised]

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the block in process 0 first, and in the others once process 0 has left it."""
        if not self.main:
            self._wait()
        yield
        if self.main:
            self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier(group=self._control)

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of every process by those of process 0."""
        for tensor in tensors if self.size > 1 else ():
            torch.distributed.broadcast(tensor, 0)

    def wrapped(self, trained: nn.Module, device: torch.device) -> nn.Module:
        """Return `trained`, wrapped so that its backward pass averages gradients over the processes.

        Buffers are not synchronised: they only hold the running statistics of norms, which training does not read.
        """
        if self.size == 1:
            return trained
        from torch.nn.parallel import DistributedDataParallel

        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(trained, device_ids=devices, broadcast_buffers=False)

    def _reduced(self, values: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return values
        reduced = values.clone()
        torch.distributed.all_reduce(reduced, getattr(torch.distributed.ReduceOp, operation))
        return reduced


ALONE = Group()


def join(processes: int, device: torch.device, environment: Mapping[str, str] = os.environ) -> Group:
    """Connect to the other `processes` of a run; `UserError` if a different number of them was started."""
    size = int(environment.get("WORLD_SIZE", "1"))
    if size != processes:
        raise UserError(
            f"{size} processes were started, the recipe's 'processes' is {processes}; start as many, or leave torchrun "
            "out: `python -m bkdsnn train` starts them itself"
        )
    if size == 1:
        return ALONE
    options: dict[str, Any] = {"timeout": PATIENCE}
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", **options)
    control = torch.distributed.new_group(backend="gloo", **options) if device.type == "cuda" else None
    return Group(int(environment["RANK"]), size, control)
