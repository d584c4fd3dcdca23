"""Parts of the GPU kit: what is carried, the JPEG copy, what the report makes of outputs."""

import importlib.metadata
import io
import tarfile

import numpy as np
import pytest
from gpu import prepare, stages
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from bkdsnn.core.errors import UserError
from bkdsnn.data.convert import convert

# What a machine with torch and the usual scientific packages has: the README of the kit asks for it.
THERE = {"torch", "torchvision", "torchaudio", "numpy", "scipy", "matplotlib", "pyyaml", "h5py", "requests", "tqdm"}
THERE |= {"huggingface-hub", "tensorboard"}  # loaded by nothing that the kit starts
LOCK = """one==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:aa
    # via two
one==2.0 ; python_full_version >= '3.12' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
two==3.0 \\
    --hash=sha256:dd
"""


def test_what_a_carried_package_needs_is_carried_or_there():
    for name in prepare.CARRIED:
        needed = map(Requirement, importlib.metadata.requires(name) or ())
        own = {
            canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
        }
        assert own <= {*prepare.CARRIED, *THERE}, name


@pytest.mark.parametrize(("python", "version", "hashes"), [("3.11", "1.0", "aa"), ("3.12", "2.0", "bb cc")])
def test_versions_and_hashes_are_those_of_the_lock_for_that_python(python, version, hashes, monkeypatch):
    monkeypatch.setattr(prepare, "CARRIED", ("one",))
    (entry,) = prepare.locked(LOCK, {"python_full_version": f"{python}.0"})
    assert entry.replace("\\\n", "").split() == [f"one=={version}", *(f"--hash=sha256:{one}" for one in hashes.split())]


def test_a_package_that_the_lock_lacks_is_named(monkeypatch):
    monkeypatch.setattr(prepare, "CARRIED", ("two", "three"))
    with pytest.raises(UserError, match=r"requirements\.lock: no three"):
        list(prepare.locked(LOCK, {"python_full_version": "3.12.0"}))


@pytest.fixture
def root(samples, tmp_path):
    """A data root with a few real images of CIFAR-10 in its binary layout."""
    convert(samples("cifar10/cifar-10-python-lossless-subset.tar.gz"), tmp_path / "root" / "whole")
    folder = tmp_path / "root" / "cifar-10-batches-bin"
    folder.mkdir()
    for path in (tmp_path / "root" / "whole").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[: 3073 * 100])
    return tmp_path / "root"


def test_the_jpeg_copy_of_the_original_is_the_same_each_time_and_near_it(root, tmp_path):
    archives = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert "cifar-10-batches-bin, quality 75" in prepare.images(tmp_path / name, root)
        archives.append(tmp_path / name / "cifar10-jpeg.tar.gz")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    record = np.fromfile(root / "cifar-10-batches-bin" / "data_batch_1.bin", np.uint8)[:3073]
    label = (root / "cifar-10-batches-bin" / "batches.meta.txt").read_text().split()[record[0]]
    with tarfile.open(archives[0]) as tar:
        image = Image.open(io.BytesIO(tar.extractfile(f"cifar10-jpeg/train/{label}/0000.jpg").read()))
        assert len(tar.getnames()) == 600
    error = np.asarray(image).transpose(2, 0, 1).ravel().astype(float) - record[1:]
    assert 0 < (error**2).mean() < 255**2 / 10**2.3  # PSNR above 23 dB, and compressed at all
    assert "10 classes, 500 training and 100 test images" in convert(archives[0], tmp_path / "converted")


def test_jpeg_folders_of_the_user_are_carried_as_they_are(tmp_path):
    (tmp_path / "root" / "sets" / "cifar10-jpeg" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "root" / "sets" / "cifar10-jpeg" / "train" / "cat" / "0000.jpg").write_bytes(b"an image")
    assert "cifar10-jpeg, as it is" in prepare.images(tmp_path, tmp_path / "root")
    with tarfile.open(tmp_path / "cifar10-jpeg.tar.gz") as tar:
        assert tar.extractfile("cifar10-jpeg/train/cat/0000.jpg").read() == b"an image"


def test_a_data_root_without_cifar10_is_told(tmp_path):
    assert prepare.images(tmp_path, tmp_path).startswith("SKIPPED: neither cifar10-jpeg* nor cifar-10-batches-bin in")


def test_tests_are_counted_also_where_the_summary_is_missing():
    cut_off = [
        "[gw0] [ 50%] PASSED tests/a.py::test_b[c d] ",
        "tests/a.py::test_e FAILED [ 75%]",
        "tests/a.py::test_f ",
    ]
    assert stages.tests(cut_off) == ["1 passed, 1 failed"]
    summary = ["tests/a.py::test_e FAILED [100%]", "FAILED tests/a.py::test_e - AssertionError: no", "1 failed in 1 s"]
    assert stages.tests(summary) == ["no test passed: 1 failed", "    FAILED tests/a.py::test_e - AssertionError: no"]
    assert stages.tests(["ImportError"]) == ["no test passed: none ended"]


def test_the_first_lines_of_an_error_are_found():
    output = [
        "fine",
        "Traceback (most recent call last):",
        '  File "a.py"',
        "torch.OutOfMemoryError: CUDA",
        "more",
        "end",
    ]
    assert stages.error(output) == [
        "first lines of the error:",
        "    torch.OutOfMemoryError: CUDA",
        "    more",
        "    end",
    ]
    assert stages.error(["killed"]) == ["first lines of the error:", "    killed"]


def test_folders_are_packed_in_their_order_into_archives_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "BYTES", 10)
    for name, size in (("a", 6), ("b", 4), ("c", 1), ("d", 99)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "weights").write_bytes(b"x" * size)
        (tmp_path / name / "checkpoints" / "previous.safetensors").write_bytes(b"x" * 50)
    folders = [tmp_path / name for name in "abcd"]
    assert [[folder.name for folder in group] for group in stages.grouped(folders)] == [["a", "b"], ["c"], ["d"]]
