"""When a training writes its checkpoints."""

from __future__ import annotations

import time
from typing import Any

from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder

SAVE_SECONDS = 60.0  # least time between two checkpoints ...
SAVE_SHARE = 50.0  # ... and least multiple of what the last one cost: saving takes at most 2 % of the time


class Saver:
    """Writes checkpoints, often enough to lose little and seldom enough to cost little.

    `state` is what `checkpoint.save` takes. Of the processes that train a run together one `writes`.
    """

    def __init__(self, folder: RunFolder, state: tuple[Any, Any, Any], writes: bool) -> None:
        self.folder, self.state, self.writes = folder, state, writes
        self.last, self.cost = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether the next checkpoint is due."""
        return time.monotonic() - self.last >= max(SAVE_SECONDS, SAVE_SHARE * self.cost)

    def save(self, at: checkpoint.Position) -> None:
        """Write a checkpoint now."""
        began = time.monotonic()
        if self.writes:
            checkpoint.save(self.folder.checkpoint, self.folder.spec.digest, at, *self.state)
            self.folder.saved(at.epoch, at.step)
        self.last = time.monotonic()
        self.cost = self.last - began
