"""KDSNN (Xu et al., CVPR 2023): distillation of logits and of the features of every stage."""

from __future__ import annotations

import torch
from torch import Tensor

from bkdsnn.distill.features import Shapes, pair_last, pair_stages, squared_error, time_mean
from bkdsnn.distill.ld import soft_cross_entropy
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs
from bkdsnn.spec import KDSNN


class KDSNNLoss(Method):
    """w_logits L_LD + w sum_stages |f_adp(F) - F_tea|^2, F the firing rates (time averages) of a stage.

    `published` keeps the feature part alone, on the feature before the last layer.
    """

    def __init__(self, options: KDSNN, student: Shapes, teacher: Shapes) -> None:
        super().__init__((pair_last if options.published else pair_stages)("kdsnn", student, teacher))
        self.options = options

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `kdsnn_logits` (unless `published`) and `kdsnn_features`."""
        errors = [squared_error(*both) for both in self.features(student, teacher)]
        features = {"kdsnn_features": self.options.weight * torch.stack(errors).sum()}
        return features if self.options.published else self._logits(student, teacher) | features

    def _logits(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        teachers = time_mean(teacher.logits).detach()
        losses = soft_cross_entropy(time_mean(student.logits), teachers, self.options.tau)
        return {"kdsnn_logits": self.options.logits_weight * losses.mean()}
