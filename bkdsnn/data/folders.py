"""ImageNet and its like: one folder of image files per class, decoded by worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from bkdsnn.data.images import rgb
from bkdsnn.data.layout import SPLITS, SUFFIXES, misfit
from bkdsnn.data.loader import Normalise, shuffled
from bkdsnn.data.manifest import FileRecord, Found, Manifest, digest_of
from bkdsnn.errors import UserError
from bkdsnn.spec import Augment, Dataset
from bkdsnn.streams import generator

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow counts


def survey(dataset: Dataset, folder: Path) -> Found:
    """List all images and their sizes; UserError as `listing`. The digest is of relative paths and sizes."""
    lines, files = [], []
    images = {split: listing(dataset, folder, split) for split in SPLITS}
    for paths in (paths for classes in images.values() for paths in classes):
        sizes = [(folder / path).stat().st_size for path in paths]
        lines += [f"{path}\t{size}" for path, size in zip(paths, sizes)]
        files.append(FileRecord(path=str(Path(paths[0]).parent), bytes=sum(sizes)))
    train, test = (sum(map(len, classes)) for classes in images.values())
    return Found(train, test, digest_of(lines), files)


def listing(dataset: Dataset, folder: Path, split: str) -> list[list[str]]:
    """Return the image paths of every class, relative to `folder`; class index and images in sorted order.

    Raises UserError for a wrong number of classes, an empty class, or classes that differ between the splits.
    """
    names, others = (_classes(dataset, folder / each) for each in SPLITS)
    if different := set(names) ^ set(others):
        raise misfit(dataset, f"class '{min(different)}' lies in only one of {folder}/{{{','.join(SPLITS)}}}")
    return [_images(dataset, folder, f"{split}/{name}") for name in names]


def _classes(dataset: Dataset, folder: Path) -> list[str]:
    if not folder.is_dir():
        raise misfit(dataset, f"the folder {folder} is missing")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if len(names) != dataset.classes:
        raise misfit(dataset, f"{folder} has {len(names)} class folders, not {dataset.classes}")
    return names


def _images(dataset: Dataset, folder: Path, relative: str) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder / relative) if entry.name.lower().endswith(SUFFIXES))
    if not names:
        raise misfit(dataset, f"the class folder {folder / relative} has no image")
    return [f"{relative}/{name}" for name in names]


class FolderLoader:
    """A Loader whose worker processes, at most one a core, decode and crop; normalisation is on the device.

    Training and test views are those of the published ImageNet recipes, by Pillow's bilinear filter.
    """

    def __init__(
        self,
        manifest: Manifest,
        dataset: Dataset,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
        workers: int,
    ) -> None:
        folder = Path(str(manifest.root))
        self._train, self._test = (Files(dataset, folder, split) for split in SPLITS)
        self.train_size, self.test_size, self.digest = len(self._train), len(self._test), manifest.digest
        if (self.train_size, self.test_size) != (manifest.train, manifest.test):
            raise UserError(
                f"{folder}: found {self.train_size} training and {self.test_size} test images, expected "
                f"{manifest.train} and {manifest.test}; delete the data manifest and run the workflow again"
            )
        self.steps = self.train_size // batch_size
        self._normalise = Normalise(dataset, device)
        self._batch_size, self._augment, self._seed, self._device = batch_size, augment, seed, device
        self._side, self._workers = dataset.image_size, min(workers, os.cpu_count() or 1)

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the augmented batches of an epoch, without its first `first_step`."""
        order = shuffled(self.train_size, self._seed, epoch)
        view = partial(train_view, side=self._side, augment=self._augment, seed=self._seed, epoch=epoch)
        yield from self._load(self._train, view, order, range(first_step, self.steps))

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images once, in order, not augmented; the last batch may be smaller."""
        steps = range(math.ceil(self.test_size / self._batch_size))
        yield from self._load(self._test, partial(test_view, side=self._side), torch.arange(self.test_size), steps)

    def _load(self, files: Files, view: View, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        batches = Batches(files, view, order.split(self._batch_size))
        # The generator serves only to keep DataLoader away from the global one.
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=steps,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=generator(self._seed, "order"),
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            images, labels = (part.to(self._device, non_blocking=True) for part in batch)
            yield self._normalise(images), labels


class Files:
    """The images of one split: paths and labels. Paths are bytes in one array, which worker processes share."""

    def __init__(self, dataset: Dataset, folder: Path, split: str) -> None:
        classes = listing(dataset, folder, split)
        self._folder = folder
        self._paths = np.array([os.fsencode(path) for paths in classes for path in paths])
        self._labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in classes]))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        """Return image `index` as RGB and its label (); UserError if it cannot be read."""
        return rgb(self._folder / os.fsdecode(self._paths[index])), self._labels[index]


View = Callable[[Image.Image, int], Image.Image]


class Batches(torch.utils.data.Dataset):
    """Batch number -> images, uint8 (B, 3, side, side), and labels (B,): the work of one worker process at a time.

    A UserError is returned, not raised: DataLoader would bury its one line in a traceback.
    """

    def __init__(self, files: Files, view: View, batches: tuple[Tensor, ...]) -> None:
        self._files, self._view, self._batches = files, view, batches

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor] | UserError:
        """Read, crop and stack the images of batch `step`."""
        try:
            images, labels = zip(*(self._one(index) for index in self._batches[step].tolist()))
        except UserError as error:
            return error
        return torch.stack(images), torch.stack(labels)

    def _one(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self._files[index]
        pixels = np.array(self._view(image, index))
        return torch.from_numpy(pixels).permute(2, 0, 1), label


def train_view(image: Image.Image, index: int, *, side: int, augment: Augment, seed: int, epoch: int) -> Image.Image:
    """Return a random view (side, side) of training image `index`; its stream is (seed, epoch, index)."""
    draws = generator(seed, "augmentation", epoch, index)
    if augment.resized_crop:
        view = image.crop(random_box(*image.size, draws)).resize((side, side), Image.Resampling.BILINEAR)
    else:
        view = test_view(image, index, side=side)
    if augment.flip and torch.rand((), generator=draws) < 0.5:
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view


def test_view(image: Image.Image, index: int, *, side: int) -> Image.Image:
    """Return the central (side, side) after the shorter edge was scaled to 256/224 of `side`."""
    short = side * 256 // 224
    width, height = (int(short * edge / min(image.size)) for edge in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + side, top + side))


def random_box(width: int, height: int, draws: torch.Generator) -> Box:
    """Draw the box of a RandomResizedCrop (Szegedy et al., 2015) from an image of `width` x `height` pixels.

    Its area is uniform in 0.08-1 of the image's, its aspect ratio log-uniform in 3/4-4/3. The first of ten draws that
    fits is taken; if none fits, the largest central box whose ratio is in that range.
    """
    area = width * height * torch.empty(10).uniform_(0.08, 1, generator=draws)
    ratio = torch.empty(10).uniform_(math.log(3 / 4), math.log(4 / 3), generator=draws).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = torch.nonzero((widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height))
    if len(fits) == 0:
        return _central_box(width, height)
    box_width, box_height = int(widths[fits[0, 0]]), int(heights[fits[0, 0]])
    left = int(torch.randint(0, width - box_width + 1, (), generator=draws))
    top = int(torch.randint(0, height - box_height + 1, (), generator=draws))
    return left, top, left + box_width, top + box_height


def _central_box(width: int, height: int) -> Box:
    box_width, box_height = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height
