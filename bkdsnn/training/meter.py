"""The losses of an epoch, summed without waiting for the device that computes them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bkdsnn.config import Recipe
from bkdsnn.core.errors import UserError
from bkdsnn.machine import devices
from bkdsnn.machine.devices import fetched
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.runs.checkpoint import Position
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.schema import Epoch, Gradients
from bkdsnn.training.optim import learning_rate

LOSSES_PER_TRANSFER = 50  # steps whose losses are copied from the device together
LOWER = "lower the learning rate or the weight of that loss in config/"


class Meter:
    """Sums the losses of an epoch by name; a loss that is not finite ends the run.

    The losses of `LOSSES_PER_TRANSFER` steps are copied from the device together and read when the next copy starts, so
    that no step has to wait for the device.
    """

    def __init__(self, folder: RunFolder, at: Position, group: Group = ALONE) -> None:
        self.folder, self.at, self.group = folder, at, group
        self.names: tuple[str, ...] = ()
        self.read = at.step  # steps whose losses have been copied or summed
        self.pending: list[Tensor] = []
        self.sent: Callable[[], Tensor] | None = None
        self.began = time.monotonic() - at.epoch_seconds

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the losses (0-dim) of one step; `at.step` must already count this step."""
        self.names = tuple(losses)
        self.pending.append(torch.stack([loss.detach() for loss in losses.values()]))
        if len(self.pending) >= LOSSES_PER_TRANSFER:
            self._transfer()

    def flush(self) -> None:
        """Wait for all losses and add them to the totals. Raises `UserError` for the first one that is not finite."""
        self._transfer()
        self._transfer()
        self.at.epoch_seconds = time.monotonic() - self.began

    def _transfer(self) -> None:
        """Start copying the pending losses, averaged over all processes; add the previous copy to the totals."""
        arriving, self.sent = self.sent, fetched(self.group.mean(torch.stack(self.pending))) if self.pending else None
        self.pending = []
        for losses in arriving().tolist() if arriving else []:
            for name, value in zip(self.names, losses):
                if not math.isfinite(value):
                    raise self._failure(name, value, self.read)
                self.at.totals[name] = self.at.totals.get(name, 0.0) + value
            self.read += 1

    def record(self, top1: float, recipe: Recipe, device: torch.device) -> Epoch:
        """Return the history record of the finished epoch, after its evaluation.

        Raises `UserError` if the gradients measured in this epoch are not finite.
        """
        trained, seconds = self.at.epoch_seconds, time.monotonic() - self.began
        gradients = self.at.gradients
        if not all(map(math.isfinite, (gradients or {}).values())):
            raise UserError(f"{self.folder.spec.name}: gradients in epoch {self.at.epoch + 1} are {gradients}; {LOWER}")
        return Epoch(
            epoch=self.at.epoch + 1,
            lr=learning_rate(recipe, self.at.epoch),
            losses={name: total / self.at.step for name, total in self.at.totals.items()},
            gradients=Gradients(**gradients) if gradients else None,
            top1=top1,
            images_per_second=self.at.step * recipe.batch_size / max(trained, 1e-9),
            seconds=seconds,
            evaluation_seconds=seconds - trained,
            peak_memory_mb=self.group.highest(devices.peak_memory_mb(device), device),
        )

    def _failure(self, name: str, value: float, step: int) -> UserError:
        kept = f"kept {self.folder.checkpoint}" if self.folder.checkpoint.exists() else "no checkpoint was due yet"
        where = f"epoch {self.at.epoch + 1}, step {step + 1}"
        return UserError(f"{self.folder.spec.name}: loss '{name}' is {value} at {where} ({kept}); {LOWER}")
