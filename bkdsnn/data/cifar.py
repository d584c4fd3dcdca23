"""CIFAR-10 and CIFAR-100 in their binary distribution: fixed-size records, nothing to unpickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bkdsnn.config import Dataset
from bkdsnn.data.arrays import Arrays
from bkdsnn.data.layout import BINARY, PIXELS, SIDE, misfit
from bkdsnn.data.manifest import Found, digest_of, file_record


def survey(dataset: Dataset, folder: Path) -> Found:
    """Read every record once and return counts, digest and checksums of the files; raises UserError as `read` does."""
    arrays = read(dataset, folder)
    layout = BINARY[dataset.classes]
    files = [file_record(folder / name) for name in (*layout.train, layout.test)]
    digest = digest_of(str(file.sha256) for file in files)
    return Found(len(arrays.train_labels), len(arrays.test_labels), digest, files)


def read(dataset: Dataset, folder: Path) -> Arrays:
    """Read all images, uint8 (N, 3, 32, 32), and labels, the fine ones for CIFAR-100.

    Raises UserError for a missing or truncated file or a label out of range.
    """
    layout = BINARY[dataset.classes]
    train = np.concatenate([_records(dataset, folder / name) for name in layout.train])
    return Arrays(*_unpack(train), *_unpack(_records(dataset, folder / layout.test)))


def _records(dataset: Dataset, path: Path) -> np.ndarray:
    """Return the records of one file, uint8 (N, label bytes + 3072)."""
    size = BINARY[dataset.classes].label_bytes + PIXELS
    if not path.is_file():
        raise misfit(dataset, f"the file {path} is missing")
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) == 0 or len(content) % size:
        raise misfit(dataset, f"{path} has {len(content):,} bytes, which is not a positive multiple of {size:,}")
    records = content.reshape(-1, size)
    _check_labels(dataset, path, records[:, -PIXELS - 1])
    return records


def _check_labels(dataset: Dataset, path: Path, labels: np.ndarray) -> None:
    if len(wrong := np.flatnonzero(labels >= dataset.classes)):
        found = f"record {wrong[0]} of {path} has label {labels[wrong[0]]}, not one of 0 to {dataset.classes - 1}"
        raise misfit(dataset, found)


def _unpack(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.ascontiguousarray(records[:, -PIXELS:]).reshape(-1, 3, SIDE, SIDE)
    return images, records[:, -PIXELS - 1].astype(np.int64)
