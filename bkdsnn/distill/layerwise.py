"""Shared by KDSNN and LaSNN: features are compared layer by layer, directly or by L_BKD."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bkdsnn.config.losses import LayerWise
from bkdsnn.distill.features import Pair, squared_error
from bkdsnn.distill.method import Method
from bkdsnn.distill.restoration import Restoration
from bkdsnn.models.outputs import Outputs


class LayerWiseLoss(Method):
    """w sum_layers |F - F_tea|^2, averaged over the batch; F are time averages, passed through f_adp if `adapt`.

    With `blur_ratio` each layer contributes L_BKD = |G(f_adp(F) * B) - F_tea|^2 instead, with its own f_adp, G and
    mask B (one draw per image and channel; D-028).
    """

    def __init__(self, options: LayerWise, pairs: Sequence[Pair], adapt: bool = True) -> None:
        super().__init__(pairs, adapt)
        self.weight = options.weight
        self.restorations = nn.ModuleList()
        if options.blur_ratio is not None:
            self.restorations.extend(Restoration(pair.teacher_width, options.blur_ratio) for pair in pairs)

    def compared(self, student: Outputs, teacher: Outputs, blur: torch.Generator) -> Tensor:
        """Return the weighted sum; with `blur_ratio` a mask per layer is drawn from `blur`, in order of depth."""
        pairs = self.features(student, teacher)
        if self.restorations:
            blocks = cast(Iterable[Restoration], self.restorations)
            pairs = [(block.restore(own, blur), target) for block, (own, target) in zip(blocks, pairs)]
        return self.weight * torch.stack([squared_error(*pair) for pair in pairs]).sum()
