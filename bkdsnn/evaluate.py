"""Evaluation: every test image once, last weights, no augmentation, no blur."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bkdsnn.data.loader import Loader


class Evaluation(NamedTuple):
    """Predicted class and correctness of each test image, in the order of the test set; shapes (N,)."""

    predicted: np.ndarray
    correct: np.ndarray

    @property
    def top1(self) -> float:
        """Accuracy in per cent."""
        return 100.0 * float(self.correct.mean())


@torch.inference_mode()
def evaluate(network: nn.Module, loader: Loader) -> Evaluation:
    """Classify the test set by the time-averaged logits."""
    network.eval()
    pairs = [(network(images).logits.mean(0).argmax(1), labels) for images, labels in loader.test()]
    predicted = torch.cat([pair[0] for pair in pairs]).cpu().numpy()
    labels = torch.cat([pair[1] for pair in pairs]).cpu().numpy()
    return Evaluation(predicted, predicted == labels)
