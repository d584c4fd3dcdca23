"""A dataset as four arrays, and its file of embedded images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bkdsnn.config import Dataset
from bkdsnn.core import files
from bkdsnn.core.errors import UserError


class Arrays(NamedTuple):
    """All images of a dataset: uint8 (N, 3, H, W); labels: int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def save(self, path: Path) -> None:
        """Write the arrays atomically as an uncompressed .npz without pickle."""
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **self._asdict())

    @classmethod
    def load(cls, path: Path, dataset: Dataset) -> Arrays:
        """Read the arrays of `dataset`; UserError if the file lacks one, or has other shapes or labels."""
        with np.load(path, allow_pickle=False) as stored:
            if missing := [name for name in cls._fields if name not in stored]:
                raise UserError(f"{path}: found arrays {stored.files}, expected also {missing}; {_AGAIN}")
            arrays = cls(**{name: stored[name] for name in cls._fields})
        arrays._check(path, dataset)
        return arrays

    def _check(self, path: Path, dataset: Dataset) -> None:
        side = dataset.image_size
        for images, labels in (self[:2], self[2:]):
            if images.dtype != np.uint8 or images.shape != (len(labels), 3, side, side):
                raise UserError(
                    f"{path}: found {images.dtype} images of shape {images.shape} and {len(labels)} labels, "
                    f"expected uint8 of shape (N, 3, {side}, {side}) and as many labels; {_AGAIN}"
                )
            if labels.min() < 0 or labels.max() >= dataset.classes:
                raise UserError(
                    f"{path}: found labels {labels.min()} to {labels.max()}, "
                    f"expected 0 to {dataset.classes - 1}; {_AGAIN}"
                )


_AGAIN = "delete the file and its manifest and run the workflow again"
