"""Blur and restore, Eqs. 2-4: the core of L_BKD, used on the last feature or on the feature of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bkdsnn.machine.devices import sent
from bkdsnn.machine.distributed import ALONE

Mask = Literal["channel", "pixel"]


def random_matrix(shape: Sequence[int], kind: Mask, blur: torch.Generator) -> Tensor:
    """Draw the matrix R ~ U(0, 1) of Eq. 2 for a feature (B, C, h, w).

    `channel` draws one number per image and channel, (B, C, 1, 1); `pixel` one per image and spatial position,
    (B, 1, h, w). `blur` is a CPU generator, so that R does not depend on the device.
    """
    batch, channels, height, width = shape
    size = (batch, channels, 1, 1) if kind == "channel" else (batch, 1, height, width)
    return torch.rand(size, generator=blur)


def blur_mask(shape: Sequence[int], ratio: float, kind: Mask, blur: torch.Generator) -> Tensor:
    """Draw the mask B of Eq. 2 for a feature (B, C, h, w): False, which erases, where R is below `ratio`.

    R is drawn by `random_matrix`: `channel` erases whole channels, `pixel` spatial positions (D-004).
    """
    return random_matrix(shape, kind, blur) >= ratio


class Restoration(nn.Sequential):
    """The block G (Eq. 4), two 3x3 convolutions of `width` channels with a ReLU between, and the mask on its input.

    The kernel size is that of the published code (D-008). `ratio` is lambda. The values that the mask keeps are not
    scaled up as in dropout (D-005), and the teacher's map is not scaled to the student's maximum (D-006). Without
    `block`, G is the identity and has no parameters (table 4d).
    """

    def __init__(self, width: int, ratio: float, mask: Mask = "channel", block: bool = True) -> None:
        super().__init__(*_block(width) if block else ())
        self.ratio, self.mask = ratio, mask
        self.group = ALONE  # several processes draw the same mask for the global batch; each uses its rows (D-037)

    def restore(self, feature: Tensor, blur: torch.Generator) -> Tensor:
        """Return G(F * B) for a feature F (B, C, h, w); one mask is drawn from `blur`."""
        shape = (len(feature) * self.group.size, *feature.shape[1:])
        mask = self.group.rows(blur_mask(shape, self.ratio, self.mask, blur))
        restored: Tensor = self(feature * sent(mask, feature.device))
        return restored


def _block(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
