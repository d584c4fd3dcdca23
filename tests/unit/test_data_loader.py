"""Batches in memory: order, resume, augmentation, normalisation, erasing."""

import itertools
import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional as reference

from bkdsnn.config import Augment, Dataset
from bkdsnn.core.streams import generator, seeded
from bkdsnn.data.arrays import Arrays
from bkdsnn.data.augment import Erasing, augmented, window
from bkdsnn.data.loader import ImageLoader, MemorySplit

CPU = torch.device("cpu")
SPEC = Dataset(
    name="cifar-like",
    format="cifar-binary",
    classes=10,
    image_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
STANDARD = Augment(crop_padding=4, flip=True)


def _arrays(train: int = 50, test: int = 23) -> Arrays:
    numbers = np.random.default_rng(0)
    parts = [(numbers.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n)) for n in (train, test)]
    return Arrays(*parts[0], *parts[1])


def _loader(
    arrays: Arrays | None = None,
    augment: Augment = STANDARD,
    seed: int = 3,
    batch: int = 16,
    device: torch.device = CPU,
) -> ImageLoader:
    found = arrays or _arrays()
    train = MemorySplit(found.train_images, found.train_labels, device, augment, seed)
    test = MemorySplit(found.test_images, found.test_labels, device)
    return ImageLoader(train, test, SPEC, "digest", batch_size=batch, augment=augment, seed=seed, device=device)


@pytest.mark.parametrize("first_step", [0, 1, 2, 3])
def test_a_resumed_epoch_yields_the_same_bits_as_the_rest_of_a_whole_one(first_step):
    whole = list(_loader().train(5))
    resumed = list(_loader().train(5, first_step))
    assert len(resumed) == 3 - first_step
    for (images, _, labels), (again, _, labels_again) in zip(whole[first_step:], resumed, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)


def test_an_epoch_visits_every_image_at_most_once_and_drops_the_incomplete_batch():
    loader = _loader()
    labels = torch.cat([batch.labels for batch in loader.train(0)])
    assert loader.steps == 3 and len(labels) == 48 and len(labels.unique()) == 48


def test_order_and_augmentation_change_with_epoch_and_seed_only():
    first = [next(_loader(seed=seed).train(epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for one, other in itertools.combinations(first, 2):
        assert not torch.equal(one.labels, other.labels)
    plain = next(_loader(seed=0, augment=Augment()).train(0))
    assert torch.equal(plain.labels, first[0].labels) and not torch.equal(plain.images, first[0].images)


def test_a_teacher_sees_the_very_tensor_that_the_student_sees():
    loader = _loader(augment=Augment(flip=True, erasing=0.5))
    assert all(batch.teacher_input is batch.images for batch in loader.train(0))


def test_every_step_of_an_epoch_augments_anew():
    same = np.broadcast_to(_arrays(1).train_images, (48, 3, 32, 32)).copy()
    batches = list(_loader(_arrays()._replace(train_images=same, train_labels=np.zeros(48, np.int64))).train(0))
    assert not torch.equal(batches[0][0], batches[1][0]) and not torch.equal(batches[1][0], batches[2][0])


def test_the_test_split_comes_in_order_once_and_unaugmented():
    arrays = _arrays()
    batches = list(_loader(arrays).test())
    assert [len(labels) for _, labels in batches] == [16, 7]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(23))
    mean, std = torch.tensor(SPEC.mean).view(3, 1, 1), torch.tensor(SPEC.std).view(3, 1, 1)
    expected = (torch.from_numpy(arrays.test_images) / 255 - mean) / std
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)


def test_the_window_is_the_crop_of_the_black_padded_raw_image_then_mirrored():
    images = torch.from_numpy(_arrays(6).train_images)
    top, left = torch.tensor([0, 8, 4, 2, 7, 1]), torch.tensor([8, 0, 4, 5, 3, 6])
    mirrored = torch.tensor([True, False] * 3)
    for index, found in enumerate(window(images, 4, top, left, mirrored)):
        crop = reference.crop(reference.pad(images[index], [4]), int(top[index]), int(left[index]), 32, 32)
        assert torch.equal(found, crop.flip(2) if mirrored[index] else crop)


def test_offsets_and_mirroring_are_uniform_over_all_values():
    ramp = torch.arange(1, 1025).view(1, 1, 32, 32).expand(4000, 1, 32, 32)
    views = augmented(ramp, STANDARD, generator(0, "augmentation"))
    corners = views[:, 0, 16, 15:17]
    mirrored = corners[:, 0] > corners[:, 1]
    assert 0.47 < mirrored.float().mean() < 0.53
    pixel = corners.min(1).values - 1
    for offset in (pixel // 32, pixel % 32):
        counts = (offset - offset.min()).bincount(minlength=9)
        assert len(counts) == 9 and counts.min() > 0.75 * 4000 / 9 and counts.max() < 1.25 * 4000 / 9


def test_without_flip_no_image_is_mirrored():
    ramp = torch.arange(32).expand(200, 3, 32, 32)
    views = augmented(ramp, Augment(crop_padding=4), generator(0, "augmentation"))
    assert (views[:, :, 16, 15] < views[:, :, 16, 16]).all()  # row 16 is never padding


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(_loader().train(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("mode", ["const", "pixel"])
def test_erasing_is_timms_on_the_normalised_batch_whatever_was_drawn_before(mode):
    erased, plain = (
        list(_loader(augment=Augment(flip=True, erasing=p, erasing_mode=mode)).train(2, 1)) for p in (0.7, 0.0)
    )
    published = RandomErasing(0.7, mode=mode, device="cpu")
    for step, (found, whole) in enumerate(zip(erased, plain, strict=True), 1):
        with seeded(3, "erasing", 2, step):
            assert torch.equal(found.images, published(whole.images.clone()))


def test_erased_boxes_hold_the_mean_colour_or_noise_and_the_share_of_erased_images_is_as_asked():
    images = torch.full((2000, 3, 16, 16), 5.0)
    for mode in ("const", "pixel"):
        found = Erasing(Augment(erasing=0.25, erasing_mode=mode), 0, torch.device("cpu"))(images.clone(), 0, 0)
        touched = found != 5.0
        assert 0.21 < touched.flatten(1).any(1).float().mean() < 0.29
        share = touched[:, 0].flatten(1).float().mean(1)
        assert share.max() < 0.4 and 0.1 < share[share > 0].mean() < 0.25  # of the area, uniform in 0.02-1/3
        inside = found[touched]
        assert (inside == 0).all() if mode == "const" else (inside.mean().abs() < 0.05 and 0.95 < inside.std() < 1.05)


def test_erasing_leaves_the_test_images_and_the_global_generators_alone():
    loader = _loader(augment=Augment(erasing=1.0, erasing_mode="pixel"))
    before = torch.get_rng_state(), random.getstate()
    list(loader.train(0))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    for (images, _), (plain, _) in zip(loader.test(), _loader().test(), strict=True):
        assert torch.equal(images, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["const", "pixel"])
def test_a_gpu_sees_the_same_batches_as_the_cpu(mode):
    augment = Augment(crop_padding=4, flip=True, erasing=0.5, erasing_mode=mode)
    loader = _loader(augment=augment, device=torch.device("cuda"))
    for (images, _, labels), (expected, _, expected_labels) in zip(
        loader.train(2), _loader(augment=augment).train(2), strict=True
    ):
        assert images.device.type == labels.device.type == "cuda"
        torch.testing.assert_close(images.cpu(), expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(labels.cpu(), expected_labels)
