"""Image folders: listing, batches, workers, resume, errors."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from bkdsnn.config import Augment, Dataset, ResizedCrop, View
from bkdsnn.core.errors import UserError
from bkdsnn.data import open_data, prepare

STANDARD = Augment(resized_crop=ResizedCrop(), flip=True)
WHOLE = Augment(resized_crop=ResizedCrop(), flip=True, randaugment="rand-m9-mstd0.5-inc1", erasing=0.5)
COUNTS = {"train": {"ape": 5, "bee": 4, "cat": 3}, "val": {"ape": 1, "bee": 2, "cat": 2}}


def _spec(classes: int = 3, side: int = 32) -> Dataset:
    return Dataset(
        name="pictures",
        format="image-folder",
        classes=classes,
        image_size=side,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        page="https://example.org/pictures",
        folder="pictures",
    )


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return smooth random colours, so that JPEG keeps them."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write 12 + 5 pictures of three classes, of all suffixes, one of them greyscale, beside a foreign file."""
    for split, classes in COUNTS.items():
        for name, count in classes.items():
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture = _picture(40 + 9 * index, 48, len(name) + index)
                suffix = ("JPEG", "jpg", "png")[index % 3]
                (picture.convert("L") if index == 1 else picture).save(folder / f"{index}.{suffix}")
            (folder / "notes.txt").write_text("not an image")
    return tmp_path


def _open(root: Path, augment: Augment = STANDARD, batch_size: int = 5, workers: int = 0, **options):
    manifest = root / "m.json"
    if not manifest.exists():
        prepare(_spec(), root, manifest)
    return open_data(
        _spec(),
        manifest,
        batch_size=batch_size,
        augment=augment,
        seed=1,
        device=torch.device("cpu"),
        workers=workers,
        **options,
    )


def _message(root: Path, dataset: Dataset | None = None) -> str:
    with pytest.raises(UserError) as caught:
        prepare(dataset or _spec(), root, root / "m.json")
    return str(caught.value)


def test_labels_follow_the_sorted_class_names_and_the_test_split_comes_in_order(root):
    loader = _open(root)
    assert (loader.train_size, loader.test_size, loader.steps) == (12, 5, 2)
    batches = list(loader.test())
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1, 2, 2]
    assert batches[0][0].shape == (5, 3, 32, 32) and batches[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "short", "mode"),
    [
        ({}, 36, InterpolationMode.BILINEAR),  # 32 x 256 / 224
        ({"view": View(crop=1.0, interpolation="bicubic")}, 32, InterpolationMode.BICUBIC),
    ],
)
def test_the_test_view_is_that_of_the_published_recipe(options, short, mode, root):
    published = transforms.Compose(
        [
            transforms.Resize(short, mode),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(_spec().mean, _spec().std),
        ]
    )
    images, _ = next(_open(root, **options).test())
    paths = ["ape/0.JPEG", "bee/0.JPEG", "bee/1.jpg", "cat/0.JPEG", "cat/1.jpg"]
    for found, path in zip(images, paths, strict=True):
        picture = Image.open(root / "pictures" / "val" / path).convert("RGB")
        torch.testing.assert_close(found, published(picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [STANDARD, WHOLE], ids=["standard", "whole"])
def test_a_resumed_epoch_yields_the_same_bits_with_any_number_of_workers(root, augment, workers):
    whole = list(_open(root, augment).train(3))
    resumed = list(_open(root, augment, workers=workers).train(3, 1))
    assert len(whole) == 2 and len(resumed) == 1
    assert torch.equal(whole[1].images, resumed[0].images) and torch.equal(whole[1].labels, resumed[0].labels)


def test_the_view_of_an_image_depends_on_the_epoch_but_not_on_its_batch(root):
    def by_content(epoch: int, batch_size: int) -> set[bytes]:
        return {
            image.numpy().tobytes()
            for batch in _open(root, batch_size=batch_size).train(epoch)
            for image in batch.images
        }

    assert by_content(0, 3) == by_content(0, 4)
    assert not by_content(0, 3) & by_content(1, 3)


def test_the_global_random_state_is_left_alone(root):
    loader, before = _open(root), torch.get_rng_state()
    list(loader.train(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(root, workers):
    path = root / "pictures" / "train" / "bee" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        list(_open(root, workers=workers, batch_size=12).train(0))
    assert str(caught.value).startswith(f"{path}: cannot be read as an image") and "\n" not in str(caught.value)


def test_wrong_class_numbers_empty_classes_and_missing_splits_are_named(root):
    pictures = root / "pictures"
    assert f"{pictures / 'train'} has 3 class folders, not 4" in _message(root, _spec(4))
    assert "pictures/{train,val}/<class>/*.JPEG" in _message(root, _spec(4))
    for path in (pictures / "val" / "cat").glob("*.[Jj]*"):
        path.unlink()
    assert f"the class folder {pictures / 'val' / 'cat'} has no image" in _message(root)
    (pictures / "val" / "cat").rename(pictures / "val" / "cow")
    assert "class 'cat' lies in only one of" in _message(root)
    (pictures / "val").rename(pictures / "valid")
    assert f"the folder {pictures / 'val'} is missing" in _message(root)
    assert "https://example.org/pictures" in _message(root)


def test_images_added_after_preparation_are_noticed(root):
    _open(root)
    _picture(40, 40).save(root / "pictures" / "val" / "ape" / "new.png")
    with pytest.raises(UserError, match="found 12 training and 6 test images, expected 12 and 5"):
        _open(root)


def test_cropping_by_padding_is_refused(root):
    with pytest.raises(UserError, match=r"'augment.crop_padding' does not suit dataset 'pictures'"):
        _open(root, Augment(crop_padding=4))


def test_real_imagenette_images_load(samples, tmp_path):
    taken: dict[str, int] = {}
    with tarfile.open(samples("imagenet/imagenette224-10c.tar")) as archive:
        for member in archive:
            folder = str(Path(member.name).parent)
            if member.isfile() and taken.setdefault(folder, 0) < 4:
                taken[folder] += 1
                archive.extract(member, tmp_path, filter="data")
    (tmp_path / "imagenette224-10c").rename(tmp_path / "pictures")
    dataset, manifest = _spec(10, 224), tmp_path / "m.json"
    prepare(dataset, tmp_path, manifest)
    loader = open_data(
        dataset, manifest, batch_size=20, augment=STANDARD, seed=0, device=torch.device("cpu"), workers=1
    )
    images, _, labels = next(loader.train(0))
    assert images.shape == (20, 3, 224, 224) and len(labels.unique()) > 5
    assert images.mean().abs() < 0.5 and 0.5 < images.std() < 2
    assert [labels.tolist() for _, labels in loader.test()] == [
        [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4,
        [5] * 4 + [6] * 4 + [7] * 4 + [8] * 4 + [9] * 4,
    ]
