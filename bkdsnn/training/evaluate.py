"""Evaluation: every test image once (D-149), weights after the last epoch (D-148), no augmentation, no blur."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bkdsnn.data.loader import Loader
from bkdsnn.machine.distributed import ALONE, Group


class Evaluation(NamedTuple):
    """Predicted class and correctness of each test image, in the order of the test set; shapes (N,)."""

    predicted: np.ndarray
    correct: np.ndarray

    @property
    def top1(self) -> float:
        """Accuracy in per cent."""
        return 100.0 * float(self.correct.mean())


@torch.inference_mode()
def evaluate(network: nn.Module, loader: Loader, group: Group = ALONE) -> Evaluation:
    """Classify the test set by the time-averaged logits; several processes share its batches."""
    network.eval()
    group.same(network.buffers())  # each process has gathered running statistics from its own rows only
    device = next(network.parameters()).device
    found = torch.full((2, loader.test_size), -1, device=device)  # class and label; -1: classified by another process
    for step, (images, labels) in zip(loader.test_steps[group.rank :: group.size], loader.test(group.rank, group.size)):
        rows = loader.test_rows(step)
        found[0, rows], found[1, rows] = network(images).logits.mean(0).argmax(1), labels
    predicted, truth = group.largest(found).cpu().numpy()
    return Evaluation(predicted, predicted == truth)
