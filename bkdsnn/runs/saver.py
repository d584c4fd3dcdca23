"""When to write checkpoints during training."""

from __future__ import annotations

import time
from typing import Any

from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder

SAVE_SECONDS = 60.0  # least time between two checkpoints
SAVE_SHARE = 50.0  # and at least so many times as long as the last save took: saving takes at most 2 % of the time


class Saver:
    """Writes checkpoints: often enough that a kill loses little work, seldom enough that saving costs little time.

    `state` holds the arguments of `checkpoint.save`. `writes` is true for one of the processes that train a run.
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
