"""KDSNN (Xu et al., CVPR 2023): distillation of logits and of features."""

from __future__ import annotations

import torch
from torch import Tensor

from bkdsnn.config import KDSNN
from bkdsnn.distill.features import Shapes, pair_last, pair_stages, time_mean
from bkdsnn.distill.layerwise import LayerWiseLoss
from bkdsnn.distill.ld import soft_cross_entropy
from bkdsnn.models.outputs import Outputs


class KDSNNLoss(LayerWiseLoss):
    """w_logits L_LD + w sum_stages |f_adp(F) - F_tea|^2, where F are the firing rates (time averages) of a stage.

    `layers: last` uses the feature before the last layer in place of all stages (table 4c, single-layer; D-031).
    With `blur_ratio` features are compared by L_BKD. `published` keeps only the feature term, on the feature before the
    last layer (D-021).
    """

    def __init__(self, options: KDSNN, student: Shapes, teacher: Shapes) -> None:
        last = options.published or options.layers == "last"
        pairs = [pair_last("kdsnn", student, teacher)] if last else pair_stages("kdsnn", student, teacher)
        super().__init__(options, pairs)
        self.options = options

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `kdsnn_logits` (unless `published`) and `kdsnn_features`."""
        features = {"kdsnn_features": self.compared(student, teacher, blur)}
        return features if self.options.published else self._logits(student, teacher) | features

    def _logits(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        teachers = time_mean(teacher.logits).detach()
        losses = soft_cross_entropy(time_mean(student.logits), teachers, self.options.tau)
        return {"kdsnn_logits": self.options.logits_weight * losses.mean()}
