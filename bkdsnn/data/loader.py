"""Batches for training and test, a pure function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from bkdsnn.data.arrays import Arrays
from bkdsnn.data.augment import augmented
from bkdsnn.spec import Augment, Dataset
from bkdsnn.streams import generator


class Loader(Protocol):
    """An open dataset. Images are float32 (B, 3, H, W), normalised, labels int64 (B,), both on the device."""

    steps: int
    """Full training batches per epoch; an incomplete last batch is dropped."""
    train_size: int
    test_size: int
    digest: str
    """Of the data, as in the manifest."""

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the augmented batches of an epoch, without its first `first_step`."""

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images once, in order, not augmented; the last batch may be smaller."""


class MemoryLoader:
    """A Loader that keeps all images as bytes on the device and augments whole batches there."""

    def __init__(
        self,
        arrays: Arrays,
        dataset: Dataset,
        digest: str,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
    ) -> None:
        self.train_size, self.test_size = len(arrays.train_labels), len(arrays.test_labels)
        self.steps = self.train_size // batch_size
        self.digest = digest
        self._train_images, self._train_labels, self._test_images, self._test_labels = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        self._normalise = Normalise(dataset, device)
        self._batch_size, self._augment, self._seed, self._device = batch_size, augment, seed, device

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the augmented batches of an epoch, without its first `first_step`."""
        batches = shuffled(self.train_size, self._seed, epoch).to(self._device).split(self._batch_size)
        for step in range(first_step, self.steps):
            draws = generator(self._seed, "augmentation", epoch, step)
            images = augmented(self._train_images[batches[step]], self._augment, draws)
            yield self._normalise(images), self._train_labels[batches[step]]

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images once, in order, not augmented; the last batch may be smaller."""
        size = self._batch_size
        for images, labels in zip(self._test_images.split(size), self._test_labels.split(size), strict=True):
            yield self._normalise(images), labels


class Normalise:
    """(x / 255 - mean) / std of uint8 images (B, 3, H, W), per channel; float32."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        mean, std = torch.tensor([dataset.mean, dataset.std], device=device).view(2, 3, 1, 1)
        self._mean, self._std = 255 * mean, 255 * std

    def __call__(self, images: Tensor) -> Tensor:
        """Return the normalised images."""
        return images.float().sub_(self._mean).div_(self._std)


def shuffled(size: int, seed: int, epoch: int) -> Tensor:
    """Return the order (size,) in which an epoch visits the training images."""
    return torch.randperm(size, generator=generator(seed, "order", epoch))
