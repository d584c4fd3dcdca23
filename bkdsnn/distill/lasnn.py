"""LaSNN (Hong et al., 2023): layer-wise distillation of spatial attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn.distill.features import Shapes, pair_stages, squared_error
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs
from bkdsnn.spec import LaSNN


def attention(feature: Tensor) -> Tensor:
    """Reduce (B, C, h, w) to maps (B, h w) of unit length: squares summed over channels, L2-normalised per sample."""
    energy = feature.square().sum(1).flatten(1)
    return F.normalize(energy, dim=1, eps=1e-6)  # eps: a silent stage has no direction, and gets a zero gradient


class LaSNNLoss(Method):
    """w sum_stages |A(F) - A(F_tea)|^2, averaged over the batch; F time averages, A the attention map.

    `published` compares the features themselves, through f_adp where widths differ.
    """

    def __init__(self, options: LaSNN, student: Shapes, teacher: Shapes) -> None:
        super().__init__(pair_stages("lasnn", student, teacher), adapt=options.published)
        self.options = options

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `lasnn`."""
        pairs = self.features(student, teacher)
        if not self.options.published:
            pairs = [(attention(feature), attention(target)) for feature, target in pairs]
        return {"lasnn": self.options.weight * torch.stack([squared_error(*pair) for pair in pairs]).sum()}
