"""The CIFAR binary reader."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from bkdsnn.config import Dataset
from bkdsnn.core.errors import UserError
from bkdsnn.data import prepare
from bkdsnn.data.cifar import read

CATALOGUE = yaml.safe_load((Path(__file__).parents[2] / "config" / "datasets.yaml").read_text())
CIFAR10 = Dataset(name="ten", **{**CATALOGUE["cifar10"], "folder": "c"})
CIFAR100 = Dataset(name="hundred", **{**CATALOGUE["cifar100"], "folder": "c"})
FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def _cifar10(root: Path, per_file: int = 4) -> np.ndarray:
    """Write a small distribution; return its records (24, 3073)."""
    records = np.random.default_rng(1).integers(0, 256, (6 * per_file, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    (root / "c").mkdir(parents=True)
    for name, part in zip(FILES, np.split(records, 6)):
        part.tofile(root / "c" / name)
    return records


def test_records_become_images_in_planes_and_labels_in_file_order(tmp_path):
    records = _cifar10(tmp_path)
    arrays = read(CIFAR10, tmp_path / "c")
    assert np.array_equal(arrays.train_labels, records[:20, 0])
    assert np.array_equal(arrays.test_labels, records[20:, 0])
    assert np.array_equal(arrays.train_images[7, 1, 2, 3], records[7, 1 + 1024 + 2 * 32 + 3])
    assert np.array_equal(arrays.test_images.reshape(4, -1), records[20:, 1:])


def test_the_fine_label_of_cifar100_is_the_second_byte(tmp_path):
    (tmp_path / "c").mkdir()
    for name in ("train.bin", "test.bin"):
        np.concatenate([[19, 99], np.full(3072, 7)]).astype(np.uint8).tofile(tmp_path / "c" / name)
    arrays = read(CIFAR100, tmp_path / "c")
    assert arrays.train_labels.tolist() == [99] and (arrays.train_images == 7).all()


def test_missing_truncated_and_mislabelled_files_are_named_with_page_and_layout(tmp_path):
    _cifar10(tmp_path)
    path = tmp_path / "c" / "data_batch_3.bin"
    content = bytearray(path.read_bytes())

    def message() -> str:
        with pytest.raises(UserError) as caught:
            prepare(CIFAR10, tmp_path, tmp_path / "m.json")
        return str(caught.value)

    path.write_bytes(content[:-1])
    assert f"{path} has 12,291 bytes, which is not a positive multiple of 3,073" in message()
    content[2 * 3073] = 10
    path.write_bytes(content)
    assert f"record 2 of {path} has label 10, not one of 0 to 9" in message()
    path.unlink()
    assert f"the file {path} is missing" in message()
    for part in (CIFAR10.page, "data_batch_1.bin", "python -m bkdsnn convert", "data.root", "BKDSNN_DATA_ROOT"):
        assert part in message()
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("change", [{"image_size": 48}, {"classes": 20}])
def test_a_spec_that_is_not_of_cifar_is_refused_before_any_file_is_looked_for(change, tmp_path):
    with pytest.raises(UserError, match="images of 32 pixels and 10 or 100 classes"):
        prepare(CIFAR10.model_copy(update=change), tmp_path, tmp_path / "m.json")


def test_a_part_may_not_bear_the_name_of_the_whole(tmp_path):
    _cifar10(tmp_path)
    with pytest.raises(UserError, match="'cifar10': found 20 training and 4 test images, the published dataset has 50"):
        prepare(CIFAR10.model_copy(update={"name": "cifar10"}), tmp_path, tmp_path / "m.json")
