"""LaSNN (Hong et al., 2023): layer-wise distillation of spatial attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn.config import LaSNN
from bkdsnn.core.errors import UserError
from bkdsnn.distill.features import Pair, Shapes, pair_stages
from bkdsnn.distill.layerwise import LayerWiseLoss
from bkdsnn.models.outputs import Outputs


def attention(feature: Tensor) -> Tensor:
    """Reduce (B, C, h, w) to maps (B, h w) of unit length: squares summed over channels, L2-normalised per sample."""
    energy = feature.square().sum(1).flatten(1)
    return F.normalize(energy, dim=1, eps=1e-6)  # eps: without spikes the norm is 0; the map and its gradient stay 0


class LaSNNLoss(LayerWiseLoss):
    """w sum_stages |A(F) - A(F_tea)|^2, averaged over the batch; F are time averages, A is the attention map.

    This is our reading of the article (D-023), applied to the tokens of Transformers as well (D-026). `published`
    compares the features themselves, after f_adp if their widths differ (D-025); `blur_ratio` compares them by L_BKD.
    Raises `UserError` if attention on a single spatial position would be compared with attention on several.
    """

    def __init__(self, options: LaSNN, student: Shapes, teacher: Shapes) -> None:
        pairs = pair_stages("lasnn", student, teacher)
        by_attention = not options.published and options.blur_ratio is None
        super().__init__(options, pairs, adapt=not by_attention)
        self.by_attention = by_attention
        if by_attention:
            _check_places(pairs)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `lasnn`."""
        return {"lasnn": self.compared(student, teacher, blur)}

    def features(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs to compare: attention maps (B, h w), or features as `Method.features` returns them."""
        pairs = super().features(student, teacher)
        return [(attention(own), attention(target)) for own, target in pairs] if self.by_attention else pairs


def _check_places(pairs: Sequence[Pair]) -> None:
    """Refuse a pair in which one map has a single spatial position: its attention is constant for every image."""
    for pair in pairs:
        if pair.grid != pair.teacher_grid and (1, 1) in (pair.grid, pair.teacher_grid):
            raise UserError(
                f"'lasnn' compares where attention lies: the student's '{pair.tap}' is {pair.shape}, the teacher's "
                f"'{pair.teacher_tap}' {pair.teacher_shape}, as (C, h, w), and one has a single spatial position; "
                "choose larger images, a network with smaller strides, or another method"
            )
