"""Augmentation of event clips, whole batches on their device; all frames of a recording are changed alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bkdsnn.config import Augment
from bkdsnn.core.streams import generator
from bkdsnn.machine.devices import sent

# `neuromorphic` applies one of these to a recording, all with equal probability. Ranges and steps are those of the
# published code for CIFAR10-DVS, and so is that translations are cut to whole pixels and cutouts are squares (D-106).
KINDS = ("identity", "shear-x", "translate-x", "translate-y", "rotate", "cutout")
SHEAR = 0.3  # shift of a row over its distance from the middle
SHIFT = 5 / 128  # translation over the side
ANGLE = math.radians(30)  # of a rotation
STEPS = 15  # of a strength between 0 and 1
AREA = (0.001, 0.11)  # of a square over that of the frame


class Changes(NamedTuple):
    """The random changes of B recordings, as tensors on the CPU.

    `mirrored` (B,) is bool, `kind` (B,) an index into KINDS, `strength` (B,) the fraction, from -1 to 1, of the largest
    shear, shift or angle, and `box` (B, 4) the top, left, height and width in pixels of the box that a cutout erases.
    """

    mirrored: Tensor
    kind: Tensor
    strength: Tensor
    box: Tensor


class ClipAugment:
    """Mirrors with probability 1/2 (`flip`) and applies a random change (`neuromorphic`), if `augment` has them set."""

    def __init__(self, augment: Augment, seed: int) -> None:
        self._augment, self._seed = augment, seed

    def __call__(self, versions: Sequence[Tensor], epoch: int, step: int) -> Sequence[Tensor]:
        """Change all versions of one batch of recordings alike; each is float (B, T, C, S, S) with a T of its own.

        The result is a pure function of (seed, epoch, step), the same on every device.
        """
        if not (self._augment.flip or self._augment.neuromorphic):
            return versions
        batch, *_, side = versions[0].shape
        draws = generator(self._seed, "augmentation", epoch, step)
        pixels, seen = sources(drawn(batch, side, self._augment, draws), side)
        return [resampled(frames, pixels, seen) for frames in versions]


def drawn(batch: int, side: int, augment: Augment, draws: torch.Generator) -> Changes:
    """Draw the changes of a batch of recordings with frames of `side` pixels, uniformly in every range.

    Without `neuromorphic` every change is of kind `identity`.
    """
    mirrored = (torch.rand(batch, generator=draws) < 0.5) & augment.flip
    kind = torch.randint(len(KINDS), (batch,), generator=draws) * augment.neuromorphic
    strength = torch.randint(-STEPS, STEPS + 1, (batch,), generator=draws) / STEPS
    area = side**2 * torch.empty(batch).uniform_(*AREA, generator=draws)
    size = area.sqrt().round()[:, None].expand(-1, 2)  # always less than the side
    corner = (torch.rand(batch, 2, generator=draws) * (side - size + 1)).floor()
    return Changes(mirrored, kind, strength, torch.cat([corner, size], 1).long())


def sources(changes: Changes, side: int) -> tuple[Tensor, Tensor]:
    """Return the source of each pixel of the changed frames, as a pixel number, row by row, (B, S S), on the CPU.

    The second tensor, bool (B, S S), is true where the source lies in the frame; elsewhere the number has no meaning
    and the changed frames are 0. Recordings are mirrored before they are changed.
    """
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # 3, S S: from the middle of the frame
    # Nearest neighbours. Halves are always rounded up; `round` goes to even numbers, which would break uniform shifts.
    columns, rows = (inverse(changes, side) @ grid + side / 2).floor().long().unbind(1)
    seen = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side) & ~emptied(changes, side)
    columns = torch.where(changes.mirrored[:, None], side - 1 - columns, columns)
    return torch.where(seen, rows * side + columns, 0), seen


def inverse(changes: Changes, side: int) -> Tensor:
    """Return the affine maps (B, 2, 3), float64, from a position (x, y, 1) in the changed frame to its source.

    Positions are in pixels from the centre of the frame, y downwards; positive angles turn counter-clockwise.
    """
    shift = (changes.strength * (SHIFT * side)).trunc()
    amounts = {"shear-x": changes.strength.double() * SHEAR, "translate-x": shift, "translate-y": shift}
    amounts["rotate"] = changes.strength.double() * ANGLE
    amount = {name: torch.where(changes.kind == KINDS.index(name), one.double(), 0.0) for name, one in amounts.items()}
    cosine, sine = amount["rotate"].cos(), amount["rotate"].sin()
    rows = (cosine, amount["shear-x"] - sine, -amount["translate-x"], sine, cosine, -amount["translate-y"])
    return torch.stack(rows, 1).view(-1, 2, 3)


def emptied(changes: Changes, side: int) -> Tensor:
    """Return bool (B, S S): true within the box of each cutout."""
    places = torch.arange(side)
    top, left, height, width = changes.box[:, :, None].unbind(1)
    rows = (places >= top) & (places < top + height)  # B, S
    columns = (places >= left) & (places < left + width)
    cutout = changes.kind == KINDS.index("cutout")
    return (rows[:, :, None] & columns[:, None, :] & cutout[:, None, None]).flatten(1)


def resampled(frames: Tensor, pixels: Tensor, seen: Tensor) -> Tensor:
    """Gather the pixels numbered `pixels` (B, S S) of frames (B, T, C, S, S); 0 where `seen` (B, S S) is false."""
    flat = frames.flatten(1, 2).flatten(2)  # B, T C, S S
    chosen, shown = (sent(places, frames.device)[:, None] for places in (pixels, seen))
    return flat.gather(2, chosen.expand_as(flat)).mul_(shown).view_as(frames)
