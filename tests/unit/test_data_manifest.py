"""Preparing data, the manifest, and opening what it lists."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bkdsnn.config import Augment, Dataset, Digits, ResizedCrop
from bkdsnn.core.errors import UserError
from bkdsnn.data import open_data, prepare

CATALOGUE = yaml.safe_load((Path(__file__).parents[2] / "config" / "datasets.yaml").read_text())
CIFAR10 = Dataset(name="ten", **{**CATALOGUE["cifar10"], "folder": "c"})
EMBEDDED = Dataset(name="tiny", **CATALOGUE["smoke-digits-12"])
FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def _cifar10(root: Path, per_file: int = 4) -> np.ndarray:
    """Write a small distribution; return its records (24, 3073)."""
    records = np.random.default_rng(1).integers(0, 256, (6 * per_file, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    (root / "c").mkdir(parents=True)
    for name, part in zip(FILES, np.split(records, 6)):
        part.tofile(root / "c" / name)
    return records


def _open(dataset: Dataset, manifest: Path, augment: Augment = Augment(), batch_size: int = 4):  # noqa: B008
    return open_data(dataset, manifest, batch_size=batch_size, augment=augment, seed=0, device=torch.device("cpu"))


@pytest.mark.parametrize(("root", "found"), [(None, "no data root is set"), (Path("nowhere"), "nowhere/c is missing")])
def test_absent_real_data_make_one_message_that_says_what_to_do(root, found, tmp_path):
    with pytest.raises(UserError) as caught:
        prepare(CIFAR10, root, tmp_path / "m.json")
    for part in (found, CIFAR10.page, "c/{data_batch_1.bin", "python -m bkdsnn convert", "data.root"):
        assert part in str(caught.value)


def test_prepared_data_open_with_the_images_and_digest_of_the_manifest(tmp_path):
    records = _cifar10(tmp_path)
    prepare(CIFAR10, tmp_path, tmp_path / "m.json")
    manifest = json.loads((tmp_path / "m.json").read_text())
    loader = _open(CIFAR10, tmp_path / "m.json")
    assert (manifest["train"], manifest["test"], manifest["classes"]) == (20, 4, 10)
    assert [file["path"] for file in manifest["files"]] == FILES and manifest["root"] == str(tmp_path / "c")
    assert (loader.train_size, loader.test_size, loader.steps, loader.digest) == (20, 4, 5, manifest["digest"])
    ((images, labels),) = loader.test()
    assert labels.tolist() == records[20:, 0].tolist()
    restored = images * torch.tensor(CIFAR10.std).view(3, 1, 1) + torch.tensor(CIFAR10.mean).view(3, 1, 1)
    assert np.array_equal((restored * 255).round().numpy().reshape(4, -1), records[20:, 1:])


def test_the_digest_follows_the_content(tmp_path):
    digests = []
    for change in (0, 0, 1):
        root = tmp_path / str(len(digests))
        _cifar10(root)
        content = bytearray((root / "c" / FILES[5]).read_bytes())
        content[100] ^= change
        (root / "c" / FILES[5]).write_bytes(content)
        prepare(CIFAR10, root, root / "m.json")
        digests.append(json.loads((root / "m.json").read_text())["digest"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "remove"])
@pytest.mark.parametrize("dataset", [CIFAR10, EMBEDDED], ids=["cifar", "embedded"])
def test_files_that_changed_since_they_were_prepared_are_refused(dataset, damage, tmp_path):
    _cifar10(tmp_path)
    prepare(dataset, tmp_path, tmp_path / "m.json")
    path = tmp_path / "m.npz" if dataset.embedded else tmp_path / "c" / FILES[0]
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content if damage == "flip a bit" else content[:-3073])
    if damage == "remove":
        path.unlink()
    with pytest.raises(UserError, match=f"{path.name} (is missing|has changed)"):
        _open(dataset, tmp_path / "m.json")


def test_embedded_data_lie_beside_the_manifest_and_move_with_it(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "a" / "tiny.json")
    with np.load(tmp_path / "a" / "tiny.npz", allow_pickle=False) as stored:
        assert sorted(stored.files) == ["test_images", "test_labels", "train_images", "train_labels"]
    (tmp_path / "a").rename(tmp_path / "b")
    loader = _open(EMBEDDED, tmp_path / "b" / "tiny.json")
    assert (loader.train_size, loader.test_size) == (40, 20)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["tiny.json", "tiny.npz"]


def test_preparing_embedded_data_twice_gives_the_same_digest(tmp_path):
    for name in ("one", "two"):
        prepare(EMBEDDED, None, tmp_path / f"{name}.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["digest"] for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"image_size": 24}, "image_size"),
        ({"digits": Digits(train=40, test=20, clutter=1)}, "digits"),
        ({"name": "other"}, "name"),
        ({"mean": (0.1, 0.2, 0.3)}, "mean"),
    ],
)
def test_a_manifest_of_another_spec_is_refused_and_the_key_named(change, key, tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    with pytest.raises(UserError, match=f"m.json: '{key}' is"):
        _open(EMBEDDED.model_copy(update=change), tmp_path / "m.json")


def test_a_manifest_of_an_older_data_version_is_refused(tmp_path, monkeypatch):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    monkeypatch.setattr(Dataset, "version", 999)
    with pytest.raises(UserError, match=r"'versions' is {}, but this run's dataset 'tiny' has {'Dataset.version': 9"):
        _open(EMBEDDED, tmp_path / "m.json")


def test_a_relabelled_dataset_needs_no_new_manifest(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    assert _open(EMBEDDED.model_copy(update={"label": "new"}), tmp_path / "m.json").train_size == 40


def test_arrays_of_another_shape_or_with_foreign_labels_are_refused(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    for change, found in [({"image_size": 8}, r"\(N, 3, 8, 8\)"), ({"classes": 5}, "labels 0 to 9, expected 0 to 4")]:
        content["dataset"] = {**EMBEDDED.model_dump(mode="json"), **change}
        (tmp_path / "m.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=found):
            _open(EMBEDDED.model_copy(update=change), tmp_path / "m.json")


def test_a_missing_and_a_damaged_manifest_are_named(tmp_path):
    with pytest.raises(UserError, match=r"m.json is missing"):
        _open(EMBEDDED, tmp_path / "m.json")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(UserError, match=r"data manifest .*m.json: 'name'"):
        _open(EMBEDDED, tmp_path / "m.json")


def test_an_augmentation_that_the_format_does_not_know_is_refused(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    with pytest.raises(UserError, match=r"'augment.resized_crop' does not suit dataset 'tiny'"):
        _open(EMBEDDED, tmp_path / "m.json", Augment(resized_crop=ResizedCrop()))


@pytest.mark.parametrize(
    "notation",
    [
        *(
            "rand",
            "rand-",
            "rnd-m9",
            "rand-m9-x3",
            "rand-m",
            "rand-m9.5",
            "rand-n0",
            "rand-mstd",
            "rand-inc2",
            "rand-p2",
        ),
        *("rand-m9-m5", "rand-m9_n1", "rand-m9-tweights", "original-mstd0.5", "RAND-M9", "rand-m9 ", "rand-m-9"),
    ],
)
def test_a_wrong_randaugment_notation_is_refused_before_training_with_an_example(notation, tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    with pytest.raises(UserError, match=r"'augment.randaugment' is .*such as 'rand-m9-n1-mstd0.4-inc1'$") as caught:
        _open(EMBEDDED, tmp_path / "m.json", Augment(randaugment=notation))
    assert f"'{notation}'" in str(caught.value)


def test_data_in_memory_take_every_augmentation_but_a_resized_crop(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    augment = Augment(crop_padding=1, flip=True, randaugment="rand-m9-n1-mstd0.4-inc1", erasing=0.25)
    loader = _open(EMBEDDED, tmp_path / "m.json", augment)
    whole, resumed = list(loader.train(1)), list(loader.train(1, 6))
    assert [len(batch.labels) for batch in whole] == [4] * 10
    for (images, _, labels), (again, _, labels_again) in zip(whole[6:], resumed, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)
    plain = _open(EMBEDDED, tmp_path / "m.json")
    for (images, _, labels), (other, _, same) in zip(whole, plain.train(1), strict=True):
        assert torch.equal(labels, same) and not torch.equal(images, other)
    for (images, _), (same, _) in zip(loader.test(), plain.test(), strict=True):
        assert torch.equal(images, same)


def test_images_in_memory_pass_through_worker_processes_unscaled(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    plain = _open(EMBEDDED, tmp_path / "m.json")
    never = _open(EMBEDDED, tmp_path / "m.json", Augment(randaugment="rand-p0.0"))  # each operation with probability 0
    for (images, _, labels), (same, _, labels_too) in zip(never.train(2), plain.train(2), strict=True):
        assert torch.equal(images, same) and torch.equal(labels, labels_too)


def test_importing_the_package_loads_neither_torch_nor_numpy():
    command = "import sys, bkdsnn.data; print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout.strip() == "[]"


def test_opening_embedded_data_imports_no_heavy_library(tmp_path):
    prepare(EMBEDDED, None, tmp_path / "m.json")
    command = f"""
import sys, torch
from pathlib import Path
from bkdsnn.data import open_data
from bkdsnn.config import Augment, Dataset
dataset = Dataset(**{EMBEDDED.model_dump()!r})
loader = open_data(dataset, Path({str(tmp_path / "m.json")!r}), batch_size=4, augment=Augment(), seed=0,
                   device=torch.device("cpu"))
next(loader.train(0))
print([m for m in ("torchvision", "timm", "pandas", "matplotlib", "scipy", "sklearn") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
