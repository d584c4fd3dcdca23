"""Batches for training and test, a pure function of (seed, epoch, step)."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bkdsnn.config import Augment, Dataset
from bkdsnn.core.streams import generator
from bkdsnn.data.augment import Erasing, augmented
from bkdsnn.machine.devices import sent
from bkdsnn.machine.distributed import ALONE, Group


class Split(Protocol):
    """The training or the test images, in the form that an ImageLoader reads.

    `single` says that images are read one by one, each with its own random stream. Several processes can then share the
    work of reading a batch, because a fraction of a batch takes that fraction of the time.
    """

    single: bool

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, order: Tensor, size: int, steps: range, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, uint8 (B, 3, H, W), and labels, int64 (B,), on the device.

        The indices `order` (N,) are divided into batches of `size` images; the batches numbered `steps` are read.
        """


class Batch(NamedTuple):
    """A training batch on the device: student input, teacher input and labels.

    `images`, the student input, are float32 (B, C, H, W), or frames (B, T, C, H, W). `teacher_input` is the same tensor
    object, or for a teacher with another T the frames of the same recordings with that T. `labels` are
    classes, int64 (B,), or after mixing or label smoothing probabilities, float32 (B, K).
    """

    images: Tensor
    teacher_input: Tensor
    labels: Tensor


class Loader(abc.ABC):
    """An open dataset.

    `steps` is the number of full training batches in an epoch; an incomplete last batch is dropped (D-089). `digest` is
    the manifest's checksum of the data.
    """

    def __init__(self, train_size: int, test_size: int, digest: str, batch_size: int, seed: int) -> None:
        self.train_size, self.test_size, self.digest = train_size, test_size, digest
        self.steps = train_size // batch_size
        self._batch_size, self._seed = batch_size, seed

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the augmented batches of an epoch, from number `first_step` on."""
        order = shuffled(self.train_size, self._seed, epoch)
        return self._read_train(order, range(first_step, self.steps), epoch)

    @property
    def test_steps(self) -> range:
        """Return the numbers of the batches of test images; the last one may be smaller."""
        return range(math.ceil(self.test_size / self._batch_size))

    def test_rows(self, step: int) -> slice:
        """Return the slice of the test images that batch `step` holds."""
        return slice(step * self._batch_size, (step + 1) * self._batch_size)

    def test(self, first: int = 0, stride: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield test images, not augmented, and labels in order: every `stride`-th batch from number `first` on."""
        return self._read_test(torch.arange(self.test_size), self.test_steps[first::stride])

    @abc.abstractmethod
    def _read_train(self, order: Tensor, steps: range, epoch: int) -> Iterator[Batch]:
        """Yield the batches numbered `steps` of the training images in that order."""

    @abc.abstractmethod
    def _read_test(self, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches numbered `steps` of the test images in that order."""


class ImageLoader(Loader):
    """Still images, float32 (B, 3, H, W), normalised; teacher input and student input are the same tensor."""

    def __init__(
        self,
        train: Split,
        test: Split,
        dataset: Dataset,
        digest: str,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        super().__init__(len(train), len(test), digest, batch_size, seed)
        self._train, self._test = train, test
        self._group = group if train.single else ALONE
        self._normalise = Normalise(dataset, device)
        self._erasing = Erasing(augment, seed, device)

    def _read_train(self, order: Tensor, steps: range, epoch: int) -> Iterator[Batch]:
        """Yield the batches; images that are read one by one are divided among the processes, then gathered by all."""
        size = self._batch_size // self._group.size
        own = torch.cat([self._group.rows(batch) for batch in order.split(self._batch_size)[: self.steps]])
        for step, (raw, labels) in zip(steps, self._train.read(own, size, steps, epoch), strict=True):
            images = self._erasing(self._normalise(self._group.gathered(raw)), epoch, step)
            yield Batch(images, images, self._group.gathered(labels))

    def _read_test(self, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._test.read(order, self._batch_size, steps, 0):
            yield self._normalise(images), labels


class MemorySplit:
    """A Split kept as uint8 on the device, where whole batches are augmented; by default there is no augmentation."""

    single = False

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        device: torch.device,
        augment: Augment = Augment(),  # noqa: B008 (it is frozen)
        seed: int = 0,
    ) -> None:
        self._images, self._labels = (torch.from_numpy(array).to(device) for array in (images, labels))
        self._augment, self._seed = augment, seed

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, order: Tensor, size: int, steps: range, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches as `Split` says; each is augmented with the random stream (seed, epoch, step)."""
        batches = sent(order, self._labels.device).split(size)
        for step in steps:
            draws = generator(self._seed, "augmentation", epoch, step)
            yield augmented(self._images[batches[step]], self._augment, draws), self._labels[batches[step]]


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
