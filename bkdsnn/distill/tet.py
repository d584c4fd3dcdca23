"""Temporal efficient training (Deng et al., ICLR 2022): the loss is computed at every time-step and averaged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn.config import TET
from bkdsnn.distill.features import Shapes, at_least_float32
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs


class TETLoss(Method):
    """L_TET = (1 - w) mean_t CE(y_t, label) + w mean_t MSE(y_t, target), w = `mse_weight`."""

    def __init__(self, options: TET, student: Shapes, teacher: Shapes | None) -> None:
        super().__init__()
        self.options = options

    def forward(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor, blur: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `tet` for logits (T, B, K) and labels (B,) or (B, K)."""
        logits = student.logits.to(at_least_float32(student.logits.dtype))
        ce = F.cross_entropy(logits.flatten(0, 1), labels.expand(len(logits), *labels.shape).flatten(0, 1))
        mse = (logits - self.options.target).square().mean()
        return {"tet": (1 - self.options.mse_weight) * ce + self.options.mse_weight * mse}
