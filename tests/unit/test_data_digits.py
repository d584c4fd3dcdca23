"""Embedded images: what the builder promises."""

import numpy as np
import pytest
import torch

from bkdsnn.config import Dataset, Digits
from bkdsnn.data.digits import TRAIN_SCANS, build

RED, BLUE = slice(0, 1), slice(2, 3)  # channels of the tens and of the ones


def _spec(number: int = 1, side: int = 16, **options) -> Dataset:
    return Dataset(
        name="embedded",
        format="digits",
        classes=10**number,
        image_size=side,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        digits=Digits(digits=number, **{"train": 200, "test": 100, **options}),
    )


def _ink(images: np.ndarray, channels: slice = slice(None)) -> torch.Tensor:
    """Undo the colours of clean images: 0 for paper, 1 for the strongest stroke in these channels."""
    grey = torch.from_numpy(images[:, channels]).float().mean(1)
    low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    return (grey - low) / (high - low)


def test_the_same_spec_gives_the_same_pixels():
    noisy = _spec(clutter=2, noise=0.1, shift=2)
    for one, other in zip(build(noisy), build(noisy), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("number", "side"), [(1, 16), (2, 16), (2, 48)])
def test_shapes_types_and_balanced_classes(number, side):
    arrays = build(_spec(number, side))
    assert arrays.train_images.shape == (200, 3, side, side) and arrays.train_images.dtype == np.uint8
    assert arrays.test_images.shape == (100, 3, side, side) and arrays.test_labels.dtype == np.int64
    for labels in (arrays.train_labels, arrays.test_labels):
        assert len(set(np.bincount(labels, minlength=10**number))) == 1


def test_clean_images_show_scans_of_their_class_and_no_scan_serves_both_splits():
    from sklearn.datasets import load_digits

    scans, values = load_digits(return_X_y=True)
    arrays = build(_spec(2, 11))  # at 11 pixels digits keep their 8 x 8 size
    scans = torch.from_numpy(scans).float().view(-1, 8, 8) / 16
    for images, labels, allowed in [
        (arrays.train_images, arrays.train_labels, range(TRAIN_SCANS)),
        (arrays.test_images, arrays.test_labels, range(TRAIN_SCANS, len(scans))),
    ]:
        tens, ones = _ink(images, RED)[:, 1:9, :8], _ink(images, BLUE)[:, 1:9, 3:]
        halves = torch.stack([tens, ones], 1).flatten(0, 1)  # tens, ones, tens, ...
        nearest = torch.cdist(halves.flatten(1), scans.flatten(1)).argmin(1).numpy()
        shown = values[nearest].reshape(-1, 2) @ [10, 1]
        assert (shown == labels).mean() > 0.99
        assert np.isin(nearest, allowed).mean() > 0.97  # some scans of the two splits are nearly alike


def test_tens_stand_left_of_ones():
    images = build(_spec(2, 11, train=400)).train_images.reshape(4, 100, 3, 11, 11)
    zeros, ones = images[:, :10].reshape(-1, 3, 11, 11), images[:, 10:20].reshape(-1, 3, 11, 11)  # 00-09 and 10-19
    tens, rest = (
        (_ink(zeros, channel)[:, 1:9, columns].mean(0) - _ink(ones, channel)[:, 1:9, columns].mean(0))[2:6, 3:5].mean()
        for channel, columns in ((RED, slice(0, 8)), (BLUE, slice(3, 11)))
    )
    assert tens < -0.3  # a one has strokes where a zero is hollow
    assert abs(rest) < 0.15


def test_colour_does_not_tell_the_class():
    arrays = build(_spec(1, 16, train=2000))
    border = torch.from_numpy(arrays.train_images).float()[:, :, 0].mean(2)  # paper colour
    means = torch.stack([border[arrays.train_labels == digit].mean(0) for digit in range(10)])
    assert border.std(0).min() > 9
    assert means.std(0).max() < 2  # of 10 means of 200 images each: chance gives 0.8


@pytest.mark.parametrize("option", [{"clutter": 1}, {"noise": 0.1}, {"shift": 2}])
def test_every_option_changes_the_images_of_both_splits(option):
    plain, changed = build(_spec()), build(_spec(**option))
    assert not np.array_equal(plain.train_images, changed.train_images)
    assert not np.array_equal(plain.test_images, changed.test_images)


def test_shift_moves_the_digit_by_at_most_so_many_pixels():
    def extent(shift: int) -> tuple[int, int]:
        rows = (_ink(build(_spec(1, 32, shift=shift, train=1000)).train_images) > 0.1).any(0).any(1).nonzero()
        return int(rows.min()), int(rows.max())

    assert extent(0) == (4, 27)  # a digit has 3/4 of the image
    assert extent(3) == (1, 30)


def test_noise_has_the_stated_deviation():
    images = build(_spec(noise=0.02)).train_images[:, :, 0] / 255.0  # the top row is paper
    kept = images[images.mean(2) > 0.08]  # far from where intensities are cut off
    assert 0.018 < kept.std(1, ddof=1).mean() < 0.022
