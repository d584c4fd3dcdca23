"""The folder layout of real data, and the error message if they are missing or laid out otherwise.

Imports neither torch nor NumPy, so that the workflow can check the data before any training starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bkdsnn.config import Dataset
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import published_sets

SIDE = 32  # height and width of a CIFAR image
PIXELS = 3 * SIDE * SIDE  # bytes of one image: a red, a green and a blue plane
SPLITS = ("train", "val")  # sub-folders of an image folder
SUFFIXES = (".jpeg", ".jpg", ".png")  # of image files, in small letters

# Numbers of training and test images, or recordings, of the published datasets. A dataset with other numbers needs a
# name of its own. CIFAR10-DVS has 10,000 recordings, of which the last tenth of each class is for test. For DVS128
# Gesture the numbers are those of the clips in its label files.
OFFICIAL = {
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "imagenet": (1_281_167, 50_000),
    "cifar10-dvs": (9_000, 1_000),
    "dvs128-gesture": (1_176, 288),
    "n-mnist": (60_000, 10_000),
    "n-cars": (15_422, 8_607),
    "dvs-lip": (14_896, 4_975),
}


class Binary(NamedTuple):
    """A CIFAR binary distribution: each record has `label_bytes` labels, the class last, then 3,072 pixel bytes."""

    train: tuple[str, ...]
    test: str
    label_bytes: int
    names: str
    """Text file with one class name a line."""


# Source: the section "Binary version" of the official CIFAR page.
BINARY = {
    10: Binary(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1, "batches.meta.txt"),
    100: Binary(("train.bin",), "test.bin", 2, "fine_label_names.txt"),
}


def real_folder(dataset: Dataset, root: Path | None) -> Path:
    """Return the folder of a real dataset below the data root.

    Raises UserError if there is no root or no such folder, with instructions for the user, and for a catalogue entry
    that contradicts its format.
    """
    if dataset.format == "cifar-binary" and (dataset.image_size != SIDE or dataset.classes not in BINARY):
        raise UserError(
            f"dataset '{dataset.name}': found image_size {dataset.image_size} and {dataset.classes} classes, "
            f"but format 'cifar-binary' has images of {SIDE} pixels and 10 or 100 classes; correct config/datasets.yaml"
        )
    if root is None:
        raise misfit(dataset, "needs data that you must supply, and no data root is set")
    folder = root / dataset.folder
    if not folder.is_dir():
        raise misfit(dataset, f"the folder {folder} is missing")
    return folder


def misfit(dataset: Dataset, problem: str) -> UserError:
    """Build the error for real data that are absent or not as expected: problem, layout, page and key to set."""
    return UserError(
        f"dataset '{dataset.name}': {problem}. Expected below the data root: {_expected(dataset)}. "
        f"Official page: {dataset.page}. "
        "Set the data root by the config key data.root (--config 'data={root: FOLDER}') or the environment variable "
        "BKDSNN_DATA_ROOT."
    )


def check_counts(dataset: Dataset, train: int, test: int) -> None:
    """Raise UserError if data with the name of a published dataset have other numbers of images or recordings."""
    official = OFFICIAL.get(dataset.name, (train, test))
    if (train, test) != official:
        what = "recordings" if dataset.events else "images"
        raise UserError(
            f"dataset '{dataset.name}': found {train:,} training and {test:,} test {what}, the published dataset has "
            f"{official[0]:,} and {official[1]:,}; complete it, or add an entry of another name to config/datasets.yaml"
        )


def _expected(dataset: Dataset) -> str:
    if dataset.events:
        return published_sets.expected(dataset)
    if dataset.format == "image-folder":
        train, val = SPLITS
        return f"{dataset.folder}/{{{train},{val}}}/<class>/*.JPEG (or .jpg, .png) with {dataset.classes} classes"
    layout = BINARY[dataset.classes]
    size = layout.label_bytes + PIXELS
    return (
        f"{dataset.folder}/{{{','.join((*layout.train, layout.test))}}}, the binary version, {size:,} bytes an image; "
        f"`python -m bkdsnn convert SOURCE <data root>/{dataset.folder}` makes it from the Python version "
        "or from image folders"
    )
