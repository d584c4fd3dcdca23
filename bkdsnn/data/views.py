"""Views of decoded images: cropped, mirrored and distorted by RandAugment, one image at a time, by worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from bkdsnn.config import Augment, Dataset, ResizedCrop, View
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import generator, seeded
from bkdsnn.data.images import FILTERS
from bkdsnn.data.randaugment import randaugment

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow counts
Viewer = Callable[[Image.Image, int, int], Image.Image]  # image, its index, epoch -> view


class Pictures(Protocol):
    """A sequence of decoded images with their labels."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        """Return image `index` as RGB and its label (); UserError if it cannot be read."""


class ArrayPictures:
    """Pictures from bytes in memory, (N, 3, H, W), which worker processes share; labels (N,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._images, self._labels = torch.from_numpy(images), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        """Return image `index` as RGB and its label ()."""
        return Image.fromarray(self._images[index].permute(1, 2, 0).numpy()), self._labels[index]


class CentralView:
    """The view of test images: shorter edge scaled to side / `view.crop`, rounded down as in timm; its centre."""

    def __init__(self, side: int, view: View) -> None:
        self._side, self._short = side, math.floor(side / view.crop)
        self._filter = FILTERS[view.interpolation]

    def __call__(self, image: Image.Image, index: int, epoch: int) -> Image.Image:
        """Return the central crop of (side, side) pixels; it does not depend on index and epoch."""
        side = self._side
        width, height = (int(self._short * edge / min(image.size)) for edge in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        return image.resize((width, height), self._filter).crop((left, top, left + side, top + side))


class RandomView:
    """Views of training images: cropped, mirrored, then distorted by RandAugment, in timm's order.

    The crop is that of `resized_crop` or `crop_padding`; if neither is set, it is the central view.
    """

    def __init__(self, dataset: Dataset, augment: Augment, view: View, seed: int) -> None:
        self._side, self._augment, self._seed = dataset.image_size, augment, seed
        self._central = CentralView(dataset.image_size, view)
        self._distort = randaugment(dataset, augment) if augment.randaugment else None

    def __call__(self, image: Image.Image, index: int, epoch: int) -> Image.Image:
        """Return a random view (side, side) of training image `index`, a function of (seed, epoch, index)."""
        draws = generator(self._seed, "augmentation", epoch, index)
        view = self._cut(image, draws)
        if self._augment.flip and torch.rand((), generator=draws) < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._distort is None:
            return view
        with seeded(self._seed, "randaugment", epoch, index):
            return self._distort(view)

    def _cut(self, image: Image.Image, draws: torch.Generator) -> Image.Image:
        side, crop, padding = self._side, self._augment.resized_crop, self._augment.crop_padding
        if crop:
            return image.crop(random_box(*image.size, crop, draws)).resize((side, side), FILTERS[crop.interpolation])
        if padding:
            left, top = (torch.randint(0, 2 * padding + 1, (2,), generator=draws) - padding).tolist()
            return image.crop((left, top, left + side, top + side))  # black outside the image
        return self._central(image, 0, 0)


def random_box(width: int, height: int, crop: ResizedCrop, draws: torch.Generator) -> Box:
    """Draw the box of a RandomResizedCrop (Szegedy et al., 2015) from an image of `width` x `height` pixels.

    The box's share of the image's area is uniform in `crop.scale`, its aspect ratio log-uniform in `crop.ratio`. The
    first of ten draws that fits into the image is used; if none fits, the largest central box with a ratio in that
    range.
    """
    area = width * height * torch.empty(10).uniform_(*crop.scale, generator=draws)
    ratio = torch.empty(10).uniform_(*map(math.log, crop.ratio), generator=draws).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = torch.nonzero((widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height))
    if len(fits) == 0:
        return _central_box(width, height, *crop.ratio)
    box_width, box_height = int(widths[fits[0, 0]]), int(heights[fits[0, 0]])
    left = int(torch.randint(0, width - box_width + 1, (), generator=draws))
    top = int(torch.randint(0, height - box_height + 1, (), generator=draws))
    return left, top, left + box_width, top + box_height


def _central_box(width: int, height: int, narrowest: float, widest: float) -> Box:
    box_width, box_height = min(width, round(height * widest)), min(height, round(width / narrowest))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


class ViewSplit:
    """A Split (see `bkdsnn.data.loader`) of views, made by `workers` processes, but by at most one per CPU core."""

    single = True

    def __init__(self, pictures: Pictures, view: Viewer, device: torch.device, workers: int) -> None:
        self._pictures, self._view, self._device = pictures, view, device
        self._workers = min(workers, os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, order: Tensor, size: int, steps: range, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches as `Split` says. Raises the UserError of a picture that cannot be read."""
        # Without a generator of its own, DataLoader would draw from torch's global one.
        loader = DataLoader(
            Batches(self._pictures, self._view, order.split(size), epoch),
            batch_size=None,
            sampler=steps,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=generator(0, "order"),
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            images, labels = (part.to(self._device, non_blocking=True) for part in batch)
            yield images, labels


class Batches(torch.utils.data.Dataset):
    """Maps a batch number to images, uint8 (B, 3, side, side), and labels (B,); each batch is made by one worker.

    A UserError is returned instead of raised, because DataLoader would wrap its one line in a traceback.
    """

    def __init__(self, pictures: Pictures, view: Viewer, batches: tuple[Tensor, ...], epoch: int) -> None:
        self._pictures, self._view, self._batches, self._epoch = pictures, view, batches, epoch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor] | UserError:
        """Read, view and stack the images of batch `step`."""
        try:
            images, labels = zip(*(self._one(index) for index in self._batches[step].tolist()))
        except UserError as error:
            return error
        return torch.stack(images), torch.stack(labels)

    def _one(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self._pictures[index]
        pixels = np.array(self._view(image, index, self._epoch))
        return torch.from_numpy(pixels).permute(2, 0, 1), label
