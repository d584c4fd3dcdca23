"""Blur and restore, Eqs. 2-4: the heart of L_BKD, on one feature or on that of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bkdsnn.machine.devices import sent
from bkdsnn.machine.distributed import ALONE

Mask = Literal["channel", "pixel"]


def random_matrix(shape: Sequence[int], kind: Mask, blur: torch.Generator) -> Tensor:
    """Draw the matrix R ~ U(0, 1) of Eq. 2 for a feature (B, C, h, w), on the CPU: every device sees the same one.

    `channel` draws a number per map, (B, C, 1, 1); `pixel` one per spatial position, (B, 1, h, w). `blur` is a CPU
    generator.
    """
    batch, channels, height, width = shape
    size = (batch, channels, 1, 1) if kind == "channel" else (batch, 1, height, width)
    return torch.rand(size, generator=blur)


def blur_mask(shape: Sequence[int], ratio: float, kind: Mask, blur: torch.Generator) -> Tensor:
    """Draw the matrix B of Eq. 2 for a feature (B, C, h, w): False where R (see `random_matrix`) is below `ratio`.

    `channel` so erases whole maps, `pixel` spatial positions (D-004).
    """
    return random_matrix(shape, kind, blur) >= ratio


class Restoration(nn.Sequential):
    """The block G (Eq. 4), two 3x3 convolutions of `width` channels with a ReLU between them, and its blurred input.

    The kernel size is that of the published code (D-008). `ratio` is lambda; nothing is scaled up for what the mask
    erases (D-005), nor is the teacher's map scaled to the student's maximum (D-006). Without `block`, G is the identity
    and has no parameters (table 4d).
    """

    def __init__(self, width: int, ratio: float, mask: Mask = "channel", block: bool = True) -> None:
        super().__init__(*_block(width) if block else ())
        self.ratio, self.mask = ratio, mask
        self.group = ALONE  # of several processes each takes its rows of one mask (D-037)

    def restore(self, feature: Tensor, blur: torch.Generator) -> Tensor:
        """Return G(F * B) for a feature F (B, C, h, w); one mask is drawn from `blur`."""
        shape = (len(feature) * self.group.size, *feature.shape[1:])
        mask = self.group.rows(blur_mask(shape, self.ratio, self.mask, blur))
        restored: Tensor = self(feature * sent(mask, feature.device))
        return restored


def _block(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
