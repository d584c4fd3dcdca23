"""Evaluation: every test image once (D-149), weights after the last epoch (D-148), no augmentation, no blur."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from bkdsnn.data.loader import Loader
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.models import Network


class Evaluation(NamedTuple):
    """Classes of the test images, in the order of the test set.

    `by_timestep` (T, N) are the classes predicted from the first t = 1 ... T time-steps, `truth` (N,) the labels.
    """

    by_timestep: np.ndarray
    truth: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The class predicted from all time-steps, (N,)."""
        row: np.ndarray = self.by_timestep[-1]
        return row

    @property
    def correct(self) -> np.ndarray:
        """Whether that class is the right one, bool (N,)."""
        return self.predicted == self.truth

    @property
    def top1_by_timestep(self) -> tuple[float, ...]:
        """Accuracy in per cent after t = 1 ... T time-steps."""
        return tuple(100.0 * float((row == self.truth).mean()) for row in self.by_timestep)

    @property
    def top1(self) -> float:
        """Accuracy in per cent after all time-steps."""
        return self.top1_by_timestep[-1]


@torch.inference_mode()
def evaluate(network: Network, loader: Loader, group: Group = ALONE) -> Evaluation:
    """Classify the test set by the mean of the logits over the first t time-steps, for every t, in one pass.

    Several processes share its batches.
    """
    network.eval()
    group.same(network.buffers())  # each process has gathered running statistics from its own rows only
    device = next(network.parameters()).device
    # T classes and the label of each image; -1: classified by another process
    found = torch.full((network.timesteps + 1, loader.test_size), -1, device=device)
    for step, (images, labels) in zip(loader.test_steps[group.rank :: group.size], loader.test(group.rank, group.size)):
        rows = loader.test_rows(step)
        logits = network(images).logits
        found[:-1, rows] = torch.stack([logits[:t].mean(0).argmax(1) for t in range(1, len(logits) + 1)])
        found[-1, rows] = labels
    classes = group.largest(found).cpu().numpy()
    return Evaluation(classes[:-1], classes[-1])
