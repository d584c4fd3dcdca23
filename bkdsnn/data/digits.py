"""Embedded images: scikit-learn's handwritten digits, set into coloured scenes with clutter and noise.

The strokes are real (1,797 scans of 8 x 8 pixels); colours, positions, clutter and noise are random. Training and test
images use disjoint sets of scans.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bkdsnn.config import Dataset, Digits
from bkdsnn.core.streams import generator
from bkdsnn.data.arrays import Arrays
from bkdsnn.data.augment import window
from bkdsnn.data.manifest import Found, digest_of, file_record

SCAN = 8  # height and width of a scan
TRAIN_SCANS = 1400  # the first of the 1,797; the others are for test
# Tint of the pen (red, green, blue) per digit, by the number of digits: tens are red, ones are blue. A network that
# averages over all spatial positions before its last layer, as ResNets do, could hardly tell them apart without the
# tint. The class depends on the strokes alone.
TINTS = {1: [(1.0, 1.0, 1.0)], 2: [(1.0, 0.2, 0.0), (0.0, 0.2, 1.0)]}
SEED = 0  # the images belong to the dataset, not to a run


def survey(dataset: Dataset, path: Path) -> Found:
    """Build the images, write them to `path`, and return counts, digest and the checksum of the file."""
    arrays = build(dataset)
    arrays.save(path)
    file = file_record(path)
    return Found(len(arrays.train_labels), len(arrays.test_labels), digest_of([str(file.sha256)]), [file])


def build(dataset: Dataset) -> Arrays:
    """Draw all images of an embedded dataset; the same spec always gives the same pixels.

    With one digit per image the class is the digit; with two it is the number 00-99 that they form.
    """
    assert dataset.digits  # held by the validator of `Dataset`
    scans, values = load_scans()
    train = Painter(dataset, dataset.digits, scans[:TRAIN_SCANS], values[:TRAIN_SCANS], generator(SEED, "data", 0))
    test = Painter(dataset, dataset.digits, scans[TRAIN_SCANS:], values[TRAIN_SCANS:], generator(SEED, "data", 1))
    return Arrays(*train.images(dataset.digits.train), *test.images(dataset.digits.test))


def load_scans() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's scans (1797, 8, 8), intensities in [0, 1], and the digits (1797,) that they show."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.images).float() / 16, torch.from_numpy(bunch.target).long()


class Painter:
    """Draws images from the scans (M, 8, 8) of digits `values` (M,); `ink` is intensity (N, 1, H, W) in [0, 1]."""

    def __init__(
        self, dataset: Dataset, options: Digits, scans: Tensor, values: Tensor, draws: torch.Generator
    ) -> None:
        self._classes, self._side, self._options, self._draws = dataset.classes, dataset.image_size, options, draws
        self._scans, self._counts = scans[values.argsort(stable=True)], values.bincount(minlength=10)
        self._glyph = self._side * 3 // 4  # pixels of one digit

    def images(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images, uint8 (N, 3, H, W), and labels, int64 (N,), all classes equally often within one."""
        labels = torch.arange(count) % self._classes
        images = self._uniform(count, 0.0, 0.15).expand(-1, -1, self._side, self._side)  # dark paper
        for place in range(self._options.digits):
            images = self._inked(images, self._written(labels, place), place)
        for fragment in range(self._options.clutter):
            images = self._inked(images, self._fragment(count), fragment % self._options.digits)
        images = images + self._options.noise * torch.randn(images.shape, generator=self._draws)
        return (images.clamp(0, 1) * 255).round().byte().numpy(), labels.numpy()

    def _inked(self, images: Tensor, ink: Tensor, place: int) -> Tensor:
        """Draw `ink` (N, 1, H, W) on the images in a random light colour with the tint of digit number `place`."""
        pen = self._uniform(len(images), 0.6, 1.0) * torch.tensor(TINTS[self._options.digits][place]).view(3, 1, 1)
        return images + ink * (pen - images).clamp_min(0)

    def _written(self, labels: Tensor, place: int) -> Tensor:
        """Return the ink of digit number `place` of each label, displaced independently; neighbours may overlap."""
        number = self._options.digits
        glyph = self._scan_of(labels // 10 ** (number - 1 - place) % 10)
        margin = self._side - self._glyph
        left = margin // 2 if number == 1 else margin * place
        return self._placed(glyph, self._glyph, left, self._options.shift)

    def _fragment(self, count: int) -> Tensor:
        """Return the ink of a quarter of a random scan, at a random position in the image."""
        half, size = SCAN // 2, self._glyph // 2
        scans = self._scan_of(self._integers(10, count))
        quarters = scans.unfold(1, half, 1).unfold(2, half, 1)  # N, 5, 5, 4, 4
        row, column = self._integers(half + 1, count), self._integers(half + 1, count)
        quarter = quarters[torch.arange(count), row, column]
        return self._placed(quarter, size, (self._side - size) // 2, self._side // 2)

    def _scan_of(self, digits: Tensor) -> Tensor:
        """Return a random scan (N, 8, 8) of each of the `digits` (N,)."""
        first = self._counts.cumsum(0) - self._counts
        within = torch.rand(len(digits), generator=self._draws) * self._counts[digits]
        return self._scans[first[digits] + within.long()]

    def _placed(self, strokes: Tensor, size: int, left: int, shift: int) -> Tensor:
        """Scale strokes (N, h, w) to `size`, set them at column `left`, vertically centred, displaced by <= shift."""
        scaled = functional.interpolate(strokes[:, None], size=(size, size), mode="bilinear", align_corners=False)
        top, rest = (self._side - size) // 2, self._side - size
        canvas = functional.pad(scaled, (left, rest - left, top, rest - top))
        offsets = (self._integers(2 * shift + 1, len(strokes)) for _ in range(2))
        return window(canvas, shift, *offsets)

    def _uniform(self, count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 3, 1, 1, generator=self._draws)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(0, below, (count,), generator=self._draws)
