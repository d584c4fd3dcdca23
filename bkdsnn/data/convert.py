"""Convert CIFAR pickles, or folders of 32 x 32 images, into the CIFAR binary layout."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bkdsnn.core.archives import unpack
from bkdsnn.core.errors import UserError
from bkdsnn.data.layout import BINARY, PIXELS, SIDE, SUFFIXES
from bkdsnn.data.pickles import ByteArray, text, unpickle

ACCEPTED = (
    "cifar-10-batches-py or cifar-100-python (folder, .tar.gz or .zip), or a folder or archive with "
    f"train/<class>/ and test/<class>/ (or val/<class>/) of {SIDE} x {SIDE} images"
)
MOST = 1 << 30  # bytes of an archive's files; CIFAR has 0.2 GB


class Images(NamedTuple):
    """One output file: labels, uint8 (N, label bytes), the last column being the class; pixels, uint8 (N, 3072)."""

    labels: np.ndarray
    pixels: np.ndarray


class Source(NamedTuple):
    """Class names, one Images per training file, and the test Images."""

    names: list[str]
    train: list[Images]
    test: Images


def convert(source: Path, target: Path) -> str:
    """Write `source` in the CIFAR binary layout as the new folder `target`; return one line that says what it holds.

    `source` is one of `ACCEPTED`. The folder is only created once it is complete. Raises UserError if `target` exists,
    or if `source` is of an unknown kind, damaged, or a pickle with objects that CIFAR files do not have.
    """
    if target.exists():
        raise UserError(f"{target} exists already; name a folder that does not, or remove it first")
    with _opened(source) as folder:
        found = _read(source, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        staged = Path(temporary, target.name)
        staged.mkdir()
        _write(found, staged)
        staged.rename(target)
    train = sum(len(table.labels) for table in found.train)
    return f"{target}: {len(found.names)} classes, {train:,} training and {len(found.test.labels):,} test images"


def _write(source: Source, folder: Path) -> None:
    layout = BINARY[len(source.names)]
    for name, table in zip((*layout.train, layout.test), (*source.train, source.test), strict=True):
        np.concatenate(table, axis=1).tofile(folder / name)
    (folder / layout.names).write_text("".join(f"{name}\n" for name in source.names))


@contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """Yield `source` if it is a folder, or else a temporary folder with the unpacked archive."""
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory() as temporary:
        unpack(source, Path(temporary), ACCEPTED, MOST, lambda _: MOST)
        yield Path(temporary)


def _read(source: Path, folder: Path) -> Source:
    """Recognise the kind of source by the files in `folder` or in its subfolders, then read it."""
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (place / "data_batch_1").is_file():
            return _cifar10(place)
        if (place / "train").is_file():
            return _cifar100(place)
        if (place / "train").is_dir():
            return _image_folder(place)
    raise UserError(f"{source}: not recognised; expected {ACCEPTED}")


def _cifar10(folder: Path) -> Source:
    names = _names(folder / "batches.meta", "label_names", 10)
    train = [_table(folder / f"data_batch_{i}", {"labels": 10}) for i in range(1, 6)]
    return Source(names, train, _table(folder / "test_batch", {"labels": 10}))


def _cifar100(folder: Path) -> Source:
    names = _names(folder / "meta", "fine_label_names", 100)
    columns = {"coarse_labels": 20, "fine_labels": 100}
    return Source(names, [_table(folder / "train", columns)], _table(folder / "test", columns))


def _names(path: Path, key: str, classes: int) -> list[str]:
    names = [text(name) for name in _value(path, unpickle(path), key, list)]
    if len(names) != classes:
        raise UserError(f"{path}: found {len(names)} names under '{key}', expected {classes}")
    return names


def _table(path: Path, columns: dict[str, int]) -> Images:
    """Read one pickled batch; `columns` are the keys of its labels with the number of classes of each."""
    content = unpickle(path)
    pixels = _value(path, content, "data", ByteArray).value
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
        raise UserError(f"{path}: found data of shape {pixels.shape}, expected (N, {PIXELS})")
    labels = [_labels(path, content, key, classes, len(pixels)) for key, classes in columns.items()]
    return Images(np.array(labels, dtype=np.uint8).T, pixels)


def _labels(path: Path, content: dict[str, Any], key: str, classes: int, count: int) -> list[int]:
    labels = _value(path, content, key, list)
    if len(labels) != count:
        raise UserError(f"{path}: found {len(labels)} labels under '{key}' for {count} images, expected as many")
    if wrong := [label for label in labels if type(label) is not int or not 0 <= label < classes]:
        raise UserError(f"{path}: found {wrong[0]!r} under '{key}', expected whole numbers from 0 to {classes - 1}")
    return labels


def _value(path: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(content.get(key), kind):
        raise UserError(f"{path}: found no {kind.__name__} under '{key}' but keys {sorted(content)}; expected CIFAR")
    return content[key]


def _image_folder(folder: Path) -> Source:
    test = folder / ("test" if (folder / "test").is_dir() else "val")
    names = _classes(folder / "train")
    if len(names) not in BINARY or names != _classes(test):
        raise UserError(
            f"{folder}: found {len(names)} classes in train and {len(_classes(test))} in {test.name}, "
            "expected the same 10 or 100 in both"
        )
    train, files = _decoded(folder / "train", names), len(BINARY[len(names)].train)
    parts = zip(np.array_split(train.labels, files), np.array_split(train.pixels, files))
    return Source(names, [Images(*part) for part in parts], _decoded(test, names))


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is missing; expected {ACCEPTED}")
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _decoded(folder: Path, names: list[str]) -> Images:
    """Decode the images of all classes; the coarse label, which the layout of 100 classes also has, is set to 0."""
    images = [(label, path) for label, name in enumerate(names) for path in _images(folder / name)]
    labels = np.zeros((len(images), BINARY[len(names)].label_bytes), dtype=np.uint8)
    labels[:, -1] = [label for label, _ in images]
    return Images(labels, np.stack([_pixels(path) for _, path in images]))


def _images(folder: Path) -> list[Path]:
    images = sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
    if not images:
        raise UserError(f"the class folder {folder} has no image; expected files ending in {', '.join(SUFFIXES)}")
    return images


def _pixels(path: Path) -> np.ndarray:
    """Decode one image to its red, green and blue planes, uint8 (3072,)."""
    from bkdsnn.data.images import rgb

    pixels = np.array(rgb(path))
    if pixels.shape != (SIDE, SIDE, 3):
        raise UserError(f"{path}: found {pixels.shape[1]} x {pixels.shape[0]} pixels, expected {SIDE} x {SIDE}")
    return pixels.transpose(2, 0, 1).ravel()
