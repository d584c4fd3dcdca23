"""Logits distillation, Eqs. 7-8."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn.config import LD
from bkdsnn.distill.features import Shapes, time_mean
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs


def softened(logits: Tensor, tau: float) -> Tensor:
    """Return q = softmax(y / tau) of logits y, both (B, K); Eq. 7."""
    return F.softmax(logits / tau, dim=1)


def soft_cross_entropy(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return tau^2 CE(softmax(teacher / tau), softmax(student / tau)) of each sample, (B, K) to (B,); Eqs. 7-8."""
    return tau**2 * F.cross_entropy(student / tau, softened(teacher, tau), reduction="none")


def focal_weight(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the weight 1 - exp(-CE(student, label) / (CE(teacher, label) + 1e-7)) of each sample, (B,).

    It occurs in the published code only (D-018) and passes no gradient. `labels` are (B,) or (B, K).
    """
    own, teachers = (F.cross_entropy(logits.detach(), labels, reduction="none") for logits in (student, teacher))
    return 1 - torch.exp(-own / (teachers + 1e-7))


class LDLoss(Method):
    """w_LD L_LD on time-averaged logits, averaged over the batch."""

    def __init__(self, options: LD, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.options = options

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `ld` for logits (T, B, K) and labels (B,) or (B, K)."""
        own, teachers = time_mean(student.logits), time_mean(teacher.logits).detach()
        losses = soft_cross_entropy(own, teachers, self.options.tau)
        if self.options.focal:
            losses = focal_weight(own, teachers, labels) * losses
        return {"ld": self.options.weight * losses.mean()}
