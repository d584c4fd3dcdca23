"""Augmentation of whole batches on their device: crop and mirror raw images, erase boxes in normalised ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bkdsnn.config import Augment
from bkdsnn.core.streams import seeded
from bkdsnn.machine.devices import sent


def augmented(images: Tensor, augment: Augment, draws: torch.Generator) -> Tensor:
    """Return the batch (B, C, H, W) randomly cropped after zero padding and randomly mirrored, as `augment` says.

    Offsets are uniform in 0 ... 2 crop_padding, mirroring has probability 1/2. All random numbers come from the CPU
    generator `draws`, so that images do not depend on the device. Raw images are padded with black before they are
    normalised, as in the published CIFAR recipes.
    """
    if not (augment.crop_padding or augment.flip):
        return images
    top, left = torch.randint(0, 2 * augment.crop_padding + 1, (2, len(images)), generator=draws)
    mirrored = (torch.rand(len(images), generator=draws) < 0.5) & augment.flip
    return window(images, augment.crop_padding, top, left, mirrored)


def window(images: Tensor, padding: int, top: Tensor, left: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Cut (H, W) out of images (B, C, H, W) zero-padded on all sides, at rows `top` (B,) and columns `left` (B,).

    Images of which `mirrored` (B,) is true are reversed from left to right after the cut.
    """
    _, channels, height, width = images.shape
    rows = top[:, None] + torch.arange(height)  # B, H
    columns = left[:, None] + torch.arange(width)  # B, W
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    # One gather over pixels numbered row by row: several times faster than indexing by four tensors.
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    chosen = sent(pixels.flatten(1), images.device)[:, None].expand(-1, channels, -1)
    return functional.pad(images, (padding,) * 4).flatten(2).gather(2, chosen).view_as(images)


class Erasing:
    """Random erasing (Zhong et al., AAAI 2020) by timm: one box of 2 to 33 % of the area, ratio 0.3 to 1/0.3.

    Each image of a batch is erased with probability `augment.erasing`. The box is filled with 0, the mean colour
    (`const`), or with standard normal noise (`pixel`). Noise is slower on a GPU, which must wait for each box's copy.
    """

    def __init__(self, augment: Augment, seed: int, device: torch.device, mixed: bool = False) -> None:
        self._seed = seed
        self._erase = _eraser(augment, device) if augment.erasing and augment.erasing_mixed == mixed else None

    def __call__(self, images: Tensor, epoch: int, step: int) -> Tensor:
        """Return the normalised images (B, C, H, W), erased in place; a pure function of (seed, epoch, step)."""
        if self._erase is None:
            return images
        with seeded(self._seed, "erasing", epoch, step):
            return self._erase(images)


def _eraser(augment: Augment, device: torch.device) -> Callable[[Tensor], Tensor]:
    from timm.data.random_erasing import RandomErasing

    # `device` is where the filling is made. Noise is drawn on the CPU, to be equal on all devices (D-085).
    filled = "cpu" if augment.erasing_mode == "pixel" else device
    return RandomErasing(augment.erasing, mode=augment.erasing_mode, device=filled)
