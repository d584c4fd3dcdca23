"""Where real data must lie, and the message when they do not.

Imports neither torch nor NumPy, so that the workflow can ask before any training starts.
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

# Training and test images, or recordings, of the datasets as published. Whatever holds other numbers needs a name of
# its own. CIFAR10-DVS has 10,000, of which the last tenth of each class is for test; DVS128 Gesture is counted by the
# lines of its label files.
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
    """A CIFAR binary distribution: `label_bytes` labels, of which the last counts, then 3,072 pixel bytes a record."""

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

    Raises UserError with everything that the user must do if there is no root or no such folder, and for a
    catalogue entry that contradicts its format.
    """
    if dataset.format == "cifar-binary" and (dataset.image_size != SIDE or dataset.classes not in BINARY):
        raise UserError(
            f"dataset '{dataset.name}': found image_size {dataset.image_size} and {dataset.classes} classes, "
            f"but format 'cifar-binary' has images of {SIDE} pixels and 10 or 100 classes; correct the catalogue"
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
    """Refuse a part of a published dataset under the name of the whole (UserError)."""
    official = OFFICIAL.get(dataset.name, (train, test))
    if (train, test) != official:
        what = "recordings" if dataset.events else "images"
        raise UserError(
            f"dataset '{dataset.name}': found {train:,} training and {test:,} test {what}, the published dataset has "
            f"{official[0]:,} and {official[1]:,}; complete it, or enter the part in the catalogue under another name"
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
