"""Conversion into the CIFAR binary layout, and what its reader of pickles refuses."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bkdsnn.config import Dataset
from bkdsnn.core.archives import unpack
from bkdsnn.core.errors import UserError
from bkdsnn.data.cifar import read
from bkdsnn.data.convert import MOST, convert

CATALOGUE = yaml.safe_load((Path(__file__).parents[2] / "config" / "datasets.yaml").read_text())
CIFAR10 = Dataset(name="ten", **CATALOGUE["cifar10"])
CIFAR100 = Dataset(name="hundred", **CATALOGUE["cifar100"])
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def _pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def _pickles(folder: Path, protocol: int = 2, **change) -> Path:
    """Write a small CIFAR-10 in Python's layout; `change` replaces keys of its second batch."""
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{i}" for i in range(10)]}, protocol))
    for index, name in enumerate(BATCHES):
        content = {"data": _pixels(3, index), "labels": [index, 9, 0]}
        content.update(change if index == 1 else {})
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    return folder


def _refusal(source: Path) -> str:
    """Return the message of a failed conversion, after a check that it left nothing behind."""
    target = source.parent / "target"
    with pytest.raises(UserError) as caught:
        convert(source, target)
    assert not target.exists() and not list(source.parent.glob(".target*"))
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_come_back_through_the_binary_reader(protocol, tmp_path):
    summary = convert(_pickles(tmp_path / "p", protocol), tmp_path / "target")
    arrays = read(CIFAR10, tmp_path / "target")
    assert summary == f"{tmp_path / 'target'}: 10 classes, 15 training and 3 test images"
    assert arrays.train_labels.tolist() == [label for index in range(5) for label in (index, 9, 0)]
    expected = np.concatenate([_pixels(3, index) for index in range(5)])
    assert np.array_equal(arrays.train_images.reshape(15, -1), expected)
    assert np.array_equal(arrays.test_images.reshape(3, -1), _pixels(3, 5))
    names = (tmp_path / "target" / "batches.meta.txt").read_text().split()
    assert names == [f"class{i}" for i in range(10)]


def test_arrays_in_fortran_order_keep_their_pixels(tmp_path):
    convert(_pickles(tmp_path / "p", data=np.asfortranarray(_pixels(3, 1))), tmp_path / "target")
    assert np.array_equal(read(CIFAR10, tmp_path / "target").train_images[3:6].reshape(3, -1), _pixels(3, 1))


@pytest.mark.parametrize(("files", "dataset"), [("cifar10/cifar-10", CIFAR10), ("cifar100/cifar-100", CIFAR100)])
def test_the_real_subsets_come_back_pixel_by_pixel(files, dataset, samples, tmp_path):
    archive = samples(f"{files}-python-lossless-subset.tar.gz")
    convert(archive, tmp_path / "target")
    arrays = read(dataset, tmp_path / "target")
    unpack(archive, tmp_path, "CIFAR", MOST, lambda _: MOST)
    (folder,) = tmp_path.glob("cifar-*")
    trains, test = (BATCHES[:5], BATCHES[5]) if dataset is CIFAR10 else (["train"], "test")
    for names, images, labels in [(trains, *arrays[:2]), ([test], *arrays[2:])]:
        # These samples are trusted, and an independent reader is the point.
        batches = [pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in names]  # noqa: S301
        assert np.array_equal(images.reshape(len(images), -1), np.concatenate([batch["data"] for batch in batches]))
        key = "labels" if dataset is CIFAR10 else "fine_labels"
        assert labels.tolist() == [label for batch in batches for label in batch[key]]


class _Malice:
    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("where", ["labels", "data", "extra"])
def test_a_pickle_that_would_run_a_command_is_refused_and_nothing_runs(where, tmp_path):
    marker = tmp_path / "ran"
    source = _pickles(tmp_path / "p", **{where: _Malice(os.system, f"touch {marker}")})
    message = _refusal(source)
    assert f"{source / 'data_batch_2'}: refused" in message and "posix.system" in message
    assert not marker.exists()


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.save, __import__])
def test_no_other_global_is_admitted_either(function, tmp_path):
    assert "refused, because it names" in _refusal(_pickles(tmp_path / "p", extra=_Malice(function, "0")))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"data": _pixels(3).astype(np.int64)}, "array of type i8, expected u1"),
        ({"data": _pixels(3)[:, :3000]}, "data of shape (3, 3000), expected (N, 3072)"),
        ({"data": _pixels(3).ravel()}, "data of shape (9216,)"),
        ({"data": [1, 2, 3]}, "found no ByteArray under 'data'"),
        ({"labels": [1, 2]}, "found 2 labels under 'labels' for 3 images"),
        ({"labels": [1, 2, 10]}, "found 10 under 'labels', expected whole numbers from 0 to 9"),
        ({"labels": [1, 2, -1]}, "found -1 under 'labels'"),
        ({"labels": [1, 2, "3"]}, "found '3' under 'labels'"),
    ],
)
def test_pickles_with_other_content_are_refused(change, found, tmp_path):
    source = _pickles(tmp_path / "p", **change)
    message = _refusal(source)
    assert str(source / "data_batch_2") in message and found in message


def test_damaged_and_missing_files_are_named(tmp_path):
    source = _pickles(tmp_path / "p")
    path = source / "data_batch_4"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: damaged or not a CIFAR pickle" in _refusal(source)
    path.write_bytes(pickle.dumps([1]))
    assert f"{path}: found a pickled list, expected a dictionary" in _refusal(source)
    path.unlink()
    assert f"{path} is missing" in _refusal(source)


def test_an_existing_target_is_refused_and_kept(tmp_path):
    source = _pickles(tmp_path / "p")
    (tmp_path / "target").mkdir()
    with pytest.raises(UserError, match="target exists already"):
        convert(source, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize(("name", "kind"), [("../../escaped", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)])
def test_an_archive_cannot_write_outside_its_folder(name, kind, tmp_path):
    source = tmp_path / "bad.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "/etc", 4 if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(b"evil"))
    message = _refusal(source)
    assert f"{source}: cannot be unpacked" in message and f"'{name}'" in message


def test_a_zip_is_a_source_unless_it_leads_out(tmp_path):
    folder = _pickles(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"cifar-10-batches-py/{path.name}")
    assert "10 classes, 15 training" in convert(tmp_path / "good.zip", tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "good.zip", "a") as packed:
        packed.writestr("../escaped", b"evil")
    assert "'../escaped' is not a plain file below the folder" in _refusal(tmp_path / "good.zip")


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"\x1f\x8b\x08 cut short"])
def test_what_is_no_source_is_refused_with_what_is(content, tmp_path):
    source = tmp_path / "source.tar.gz"
    if content is not None:
        source.write_bytes(content)
    message = _refusal(source)
    assert str(source) in message and "cifar-10-batches-py or cifar-100-python" in message


def test_a_truncated_archive_is_refused(samples, tmp_path):
    source = tmp_path / "cut.tar.gz"
    source.write_bytes(samples("cifar100/cifar-100-python-lossless-subset.tar.gz").read_bytes()[:100_000])
    assert f"{source}: cannot be unpacked" in _refusal(source)


def test_an_empty_folder_is_not_recognised(tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: not recognised" in _refusal(tmp_path / "empty")


def _picture_folder(folder: Path, classes: int, test: str = "test") -> Path:
    for split, count in (("train", 2), (test, 1)):
        for label in range(classes):
            (folder / split / f"c{label:03d}").mkdir(parents=True)
            for index in range(count):
                pixels = np.full((32, 32, 3), (label, 100 * index, len(split)), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / f"c{label:03d}" / f"{index}.png")
    return folder


@pytest.mark.parametrize(("classes", "dataset", "test"), [(10, CIFAR10, "test"), (100, CIFAR100, "val")])
def test_image_folders_become_classes_in_sorted_order(classes, dataset, test, tmp_path):
    convert(_picture_folder(tmp_path / "f", classes, test), tmp_path / "target")
    arrays = read(dataset, tmp_path / "target")
    assert arrays.train_labels.tolist() == [label for label in range(classes) for _ in range(2)]
    assert arrays.test_labels.tolist() == list(range(classes))
    assert np.array_equal(arrays.train_images[:, 0, 5, 6], arrays.train_labels)
    assert set(arrays.train_images[:, 1].ravel()) == {0, 100} and (arrays.test_images[:, 2] == len(test)).all()


def test_unfit_image_folders_are_refused(tmp_path):
    assert "found 3 classes in train and 3 in test" in _refusal(_picture_folder(tmp_path / "f", 3))
    source = _picture_folder(tmp_path / "g", 10)
    Image.new("RGB", (32, 31)).save(source / "test" / "c004" / "0.png")
    assert f"{source / 'test' / 'c004' / '0.png'}: found 32 x 31 pixels, expected 32 x 32" in _refusal(source)
    (source / "test" / "c004" / "0.png").write_bytes(b"no image")
    assert "0.png: cannot be read as an image" in _refusal(source)
    (source / "test" / "c004" / "0.png").unlink()
    assert f"the class folder {source / 'test' / 'c004'} has no image" in _refusal(source)
    (source / "test" / "c004").rmdir()
    assert "found 10 classes in train and 9 in test" in _refusal(source)


def test_real_jpeg_images_convert_to_their_decoded_pixels(samples, tmp_path):
    taken: dict[Path, int] = {}
    with tarfile.open(samples("cifar10/cifar10-jpeg-60k.tar.xz"), "r|xz") as archive:
        for member in archive:
            folder = Path(member.name).parent
            if member.isfile() and taken.setdefault(folder, 0) < 2:
                taken[folder] += 1
                archive.extract(member, tmp_path, filter="data")
    convert(tmp_path / "cifar10-jpeg", tmp_path / "target")
    arrays = read(CIFAR10, tmp_path / "target")
    assert arrays.train_labels.tolist() == [label for label in range(10) for _ in range(2)]
    paths = sorted((tmp_path / "cifar10-jpeg" / "train").glob("*/*.jpg"))
    for image, path in zip(arrays.train_images, paths, strict=True):
        assert np.array_equal(image.transpose(1, 2, 0), np.array(Image.open(path)))
