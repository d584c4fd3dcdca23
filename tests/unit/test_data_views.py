"""Views of single images: the published ones by torchvision and timm, RandAugment, purity."""

import math
import pickle
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from bkdsnn.config import Augment, Dataset, ResizedCrop, View
from bkdsnn.core.streams import generator, seeded
from bkdsnn.data.randaugment import check_notation, posterise, randaugment
from bkdsnn.data.views import ArrayPictures, CentralView, RandomView, ViewSplit, random_box

CIFAR = "rand-m9-n1-mstd0.4-inc1"
SQUARE = ResizedCrop(scale=(1, 1), ratio=(1, 1), interpolation="bicubic")


def _spec(side: int = 32) -> Dataset:
    return Dataset(
        name="ten",
        format="cifar-binary",
        classes=10,
        image_size=side,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _random(augment: Augment, side: int = 32, seed: int = 0) -> RandomView:
    return RandomView(_spec(side), augment, View(crop=1.0), seed)


def _same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.array(one), np.array(other))


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 224), (70, 900), (301, 257)])
def test_the_test_view_agrees_with_torchvision_at_any_size(size):
    picture = _picture(*size)
    published = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert _same(CentralView(224, View())(picture, 0, 0), published(picture))


def test_the_usual_crop_scales_to_256_of_224_at_any_size():
    for side in range(8, 300):
        short = side * 256 // 224
        picture = _picture(short + 3, short)  # of that size already: nothing is resampled
        assert _same(CentralView(side, View())(picture, 0, 0), transforms.CenterCrop(side)(picture))


@pytest.mark.parametrize(("crop", "interpolation"), [(0.875, "bilinear"), (1.0, "bicubic"), (0.9, "bicubic")])
def test_test_views_of_real_images_agree_with_timm(crop, interpolation, samples):
    published = create_transform(224, crop_pct=crop, interpolation=interpolation, normalize=False)
    view = CentralView(224, View(crop=crop, interpolation=interpolation))
    with tarfile.open(samples("imagenet/imagenet1k-originals.tar")) as archive:
        files = [archive.extractfile(member) for member in archive.getmembers() if member.isfile()]
        pictures = [Image.open(file).convert("RGB") for file in files]
    assert len(pictures) > 5 and len({picture.size for picture in pictures}) > 1
    for picture in pictures:
        assert np.array_equal(np.array(view(picture, 0, 0)), published(picture).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "crop", [ResizedCrop(), ResizedCrop(scale=(0.5, 0.9), ratio=(1, 2))], ids=["usual", "large and wide"]
)
def test_random_boxes_are_distributed_as_torchvisions(crop):
    width, height, draws = 400, 300, generator(0, "augmentation")
    picture, boxes, published = Image.new("RGB", (width, height)), [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(3000):
            left, top, right, bottom = random_box(width, height, crop, draws)
            boxes.append((left, top, right - left, bottom - top))
            row, column, tall, wide = transforms.RandomResizedCrop.get_params(picture, [*crop.scale], [*crop.ratio])
            published.append((column, row, wide, tall))
    ours, theirs = (torch.tensor(each, dtype=torch.float) for each in (boxes, published))
    for quantile in (0.1, 0.5, 0.9):  # of left, top, width, height
        torch.testing.assert_close(ours.quantile(quantile, 0), theirs.quantile(quantile, 0), atol=12, rtol=0.05)
    ratios, expected = ((each[:, 2] / each[:, 3]).log() for each in (ours, theirs))
    assert math.log(crop.ratio[0]) - 0.03 < ratios.min() and ratios.max() < math.log(crop.ratio[1]) + 0.03
    assert abs(ratios.mean() - expected.mean()) < 0.013 and abs(ratios.std() - expected.std()) < 0.013


@pytest.mark.parametrize(("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))])
def test_an_image_too_narrow_for_any_box_is_cut_centrally(size, box):
    assert random_box(*size, ResizedCrop(), generator(0, "augmentation")) == box


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 224), (70, 900), (1000, 751)])
def test_a_crop_of_the_whole_area_at_ratio_one_is_the_central_square_as_in_timm(size):
    picture = _picture(*size)
    published = RandomResizedCropAndInterpolation(224, (1, 1), (1, 1), "bicubic")
    found = _random(Augment(resized_crop=SQUARE), 224)(picture, 5, 2)
    assert _same(found, published(picture))
    left, top = ((edge - min(size)) // 2 for edge in size)
    square = picture.crop((left, top, left + min(size), top + min(size)))
    assert _same(found, square.resize((224, 224), Image.Resampling.BICUBIC))


def test_half_of_the_training_views_are_mirrored_if_asked():
    picture = _picture(32, 32)
    plain = np.array(_random(Augment())(picture, 0, 0))
    assert np.array_equal(plain, np.array(picture))
    views = [np.array(_random(Augment(flip=True))(picture, index, 0)) for index in range(300)]
    mirrored = [np.array_equal(view, plain[:, ::-1]) for view in views]
    assert all(np.array_equal(view, plain) for view, other in zip(views, mirrored) if not other)
    assert 120 < sum(mirrored) < 180


def test_padding_is_black_and_every_offset_is_drawn():
    picture = Image.fromarray(np.arange(1, 65, dtype=np.uint8).reshape(8, 8)).convert("RGB")
    padded = np.pad(np.array(picture), [(2, 2), (2, 2), (0, 0)])
    windows = {padded[top : top + 8, left : left + 8].tobytes() for top in range(5) for left in range(5)}
    views = [_random(Augment(crop_padding=2), 8)(picture, index, 0) for index in range(400)]
    assert {np.array(view).tobytes() for view in views} == windows


@pytest.mark.parametrize("crop", [None, ResizedCrop(), SQUARE], ids=["none", "bilinear", "bicubic"])
def test_randaugment_follows_crop_and_flip_and_is_timms_own(crop):
    augment = Augment(resized_crop=crop, flip=True, randaugment="rand-m7-n2-mstd0.5-inc1")
    plain = _random(augment.model_copy(update={"randaugment": None}))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    published = rand_augment_transform(
        "rand-m7-n2-mstd0.5-inc1",  # magnitude 10, at which Pillow refuses to posterise, is six deviations away
        {
            "translate_const": 14,
            "img_mean": (125, 123, 114),
            "interpolation": filters[crop.interpolation if crop else "bicubic"],
        },
    )
    for index in range(60):
        picture = _picture(40, 36, index) if crop else _picture(32, 32, index)
        with seeded(0, "randaugment", 4, index):
            expected = published(plain(picture, index, 4))
        assert _same(_random(augment)(picture, index, 4), expected)


def test_settings_of_randaugment_are_those_of_timms_transform():
    published = create_transform(
        32, is_training=True, auto_augment=CIFAR, interpolation="bicubic", mean=_spec().mean, std=_spec().std
    )
    theirs = next(step for step in published.transforms if hasattr(step, "ops"))
    ours = randaugment(_spec(), Augment(randaugment=CIFAR))
    assert (ours.num_layers, ours.choice_weights) == (theirs.num_layers, theirs.choice_weights) == (1, None)
    for one, other in zip(ours.ops, theirs.ops, strict=True):
        assert (one.name, one.prob, one.magnitude) == (other.name, other.prob, other.magnitude)
        assert (one.hparams, one.kwargs) == (other.hparams, other.kwargs)


@pytest.mark.parametrize(
    "notation", [CIFAR, "rand-m9-mstd0.5-inc1", "rand-n3-p0.8", "rand-m15-mmax30-mstd101", "rand-p1"]
)
def test_every_notation_that_passes_works_in_timm(notation):
    check_notation(notation)
    with seeded(0, "randaugment"):
        for _ in range(200):
            randaugment(_spec(), Augment(randaugment=notation))(_picture(8, 8))


def test_full_magnitude_posterises_to_black_as_older_pillow_did():
    picture = _picture(9, 8)
    assert not np.array(posterise(picture, 0)).any() and posterise(picture, 0).size == (9, 8)
    assert _same(posterise(picture, 3), ImageOps.posterize(picture, 3))
    strongest = randaugment(_spec(), Augment(randaugment="rand-m10-inc1"))
    (operation,) = (each for each in strongest.ops if each.name == "PosterizeIncreasing")
    operation.prob = 1.0
    assert not np.array(operation(picture)).any()


def test_a_view_depends_on_seed_epoch_and_index_only_and_leaves_the_global_generators_alone():
    augment = Augment(crop_padding=2, flip=True, randaugment="rand-m9-n3-mstd0.5-inc1-p1")
    picture = _picture(32, 32)
    first = {(epoch, index): _random(augment)(picture, index, epoch) for epoch in (0, 1) for index in range(8)}
    random.seed(7), np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    view = _random(augment)
    for (epoch, index), expected in reversed(first.items()):
        assert _same(view(picture, index, epoch), expected)
    assert before[0] == random.getstate() and np.array_equal(before[1], np.random.get_state()[1])
    assert torch.equal(before[2], torch.get_rng_state())
    assert len({np.array(each).tobytes() for each in first.values()}) > 12
    assert sum(_same(_random(augment, seed=1)(picture, index, 0), first[0, index]) for index in range(8)) < 4


def test_arrays_come_back_through_worker_processes_with_their_labels():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    split = ViewSplit(ArrayPictures(images, np.arange(7)), _random(Augment()), torch.device("cpu"), 1)
    batches = list(split.read(order, 2, range(1, 4), 0))
    assert [labels.tolist() for _, labels in batches] == [[6, 1], [5, 2], [4]] and len(split) == 7
    assert all(np.array_equal(found.numpy(), images[labels.numpy()]) for found, labels in batches)


def test_views_and_pictures_can_be_sent_to_processes_that_are_not_forked():
    view = _random(Augment(flip=True, randaugment=CIFAR))
    copy = pickle.loads(pickle.dumps(view))  # noqa: S301 (our own)
    assert all(_same(copy(_picture(32, 32), index, 0), view(_picture(32, 32), index, 0)) for index in range(20))
