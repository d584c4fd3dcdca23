"""Blurred knowledge distillation, Eqs. 2-5: restore the teacher's feature from a partly erased one of the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bkdsnn.distill.features import Shapes, pair_last, squared_error
from bkdsnn.distill.method import Method
from bkdsnn.models.outputs import Outputs
from bkdsnn.spec import BKD


def blur_mask(shape: Sequence[int], ratio: float, kind: Literal["channel", "pixel"], blur: torch.Generator) -> Tensor:
    """Draw the matrix B of Eq. 2 for a feature (B, C, h, w): False where R ~ U(0, 1) is below `ratio`.

    `channel` erases whole maps, (B, C, 1, 1); `pixel` erases places, (B, 1, h, w). `blur` is a CPU generator, so
    that every device sees the same mask.
    """
    batch, channels, height, width = shape
    size = (batch, channels, 1, 1) if kind == "channel" else (batch, 1, height, width)
    return torch.rand(size, generator=blur) >= ratio


def restoration_block(width: int) -> nn.Sequential:
    """Build G (Eq. 4): two 3x3 convolutions with a ReLU between them, all of `width` channels."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))


class BKDLoss(Method):
    """w_BKD |G(f_adp(F) * B) - F_tea|^2, with F the time average (Eq. 3) of the feature before the last layer."""

    def __init__(self, options: BKD, student: Shapes, teacher: Shapes) -> None:
        (pair,) = pairs = pair_last("bkd", student, teacher)
        super().__init__(pairs)
        self.options = options
        self.restoration = restoration_block(pair.teacher_width) if options.restoration else nn.Identity()

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `bkd`; one mask is drawn from `blur`."""
        ((feature, target),) = self.features(student, teacher)
        mask = blur_mask(feature.shape, self.options.blur_ratio, self.options.mask, blur)
        # a blocking copy would make the device wait for the whole forward pass
        restored = self.restoration(feature * mask.to(feature.device, non_blocking=True))
        return {"bkd": self.options.weight * squared_error(restored, target, self.options.reduction)}
