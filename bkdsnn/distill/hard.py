"""Hard distillation (DeiT, Touvron et al., ICML 2021): a second head learns the teacher's decisions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn.config import HardLD
from bkdsnn.distill.features import Shapes, time_mean
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs


class HardLDLoss(Method):
    """w CE(mean_t y_dist, argmax_k mean_t y_tea), averaged over the batch; y_dist are the second head's logits.

    DeiT's loss (1 - a) CE + a CE_hard with a = 1/2 is half the sum of L_CE and this term with weight 1 (D-032).
    """

    def __init__(self, options: HardLD, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.options = options

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `hard-ld` for `distilled` logits (T, B, K), which the spec and training mode guarantee."""
        assert student.distilled is not None
        decisions = time_mean(teacher.logits).argmax(1)
        return {"hard-ld": self.options.weight * F.cross_entropy(time_mean(student.distilled), decisions)}
