"""Cross-entropy, the task loss of Eqs. 6 and 10."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn.config import CrossEntropy
from bkdsnn.distill.features import Shapes, time_mean
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs


class CrossEntropyLoss(Method):
    """L_CE = CE(mean_t y_t, label), averaged over the batch."""

    def __init__(self, options: CrossEntropy, student: Shapes, teacher: Shapes | None) -> None:
        super().__init__()

    def forward(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor, blur: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `ce` for logits (T, B, K) and labels (B,) or (B, K)."""
        return {"ce": F.cross_entropy(time_mean(student.logits), labels)}
