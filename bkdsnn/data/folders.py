"""ImageNet and other datasets with one folder of image files per class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bkdsnn.config import Dataset
from bkdsnn.core.errors import UserError
from bkdsnn.data.images import rgb
from bkdsnn.data.layout import SPLITS, SUFFIXES, misfit
from bkdsnn.data.manifest import FileRecord, Found, Manifest, digest_of


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
    """Return the image paths of every class, relative to `folder`; classes and images are sorted by name.

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


def splits(dataset: Dataset, manifest: Manifest) -> tuple[Files, Files]:
    """Return the training and the test images; UserError if their numbers are not those of the manifest."""
    folder = Path(str(manifest.root))
    train, test = (Files(dataset, folder, split) for split in SPLITS)
    if (len(train), len(test)) != (manifest.train, manifest.test):
        raise UserError(
            f"{folder}: found {len(train)} training and {len(test)} test images, expected "
            f"{manifest.train} and {manifest.test}; delete the data manifest and run the workflow again"
        )
    return train, test


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
