"""Augmentation of clips of events against torchvision; all versions and frames of a recording alike."""

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomErasing
from torchvision.transforms import functional as reference

from bkdsnn.config import Augment
from bkdsnn.core.streams import generator
from bkdsnn.data.events.clip_augment import (
    ANGLE,
    KINDS,
    SHEAR,
    Changes,
    ClipAugment,
    drawn,
    inverse,
    resampled,
    sources,
)

BOTH = Augment(flip=True, neuromorphic=True)


def _counts(batch: int, timesteps: int, side: int) -> Tensor:
    """Frames without a zero, so that every pixel from outside is seen."""
    return torch.randint(1, 99, (batch, timesteps, 2, side, side), generator=torch.Generator().manual_seed(0)).float()


def _changes(batch: int, side: int, augment: Augment = BOTH, seed: int = 0) -> Changes:
    return drawn(batch, side, augment, generator(seed, "augmentation"))


def _expected(clip: Tensor, changes: Changes, index: int) -> Tensor:
    """One clip (T, 2, S, S) mirrored, then distorted by torchvision."""
    if changes.mirrored[index]:
        clip = reference.hflip(clip)
    kind, strength = KINDS[changes.kind[index]], float(changes.strength[index].double())
    if kind == "cutout":
        return reference.erase(clip, *changes.box[index].tolist(), v=torch.zeros(()))
    amounts = {"angle": 0.0, "translate": [0.0, 0.0], "shear": [0.0, 0.0]}
    if kind == "shear-x":
        amounts["shear"] = [math.degrees(math.atan(strength * SHEAR)), 0.0]
    if kind == "rotate":
        amounts["angle"] = -math.degrees(strength * ANGLE)  # torchvision turns clockwise
    if kind.startswith("translate"):
        shift = float(int(strength * 5 * clip.shape[-1] / 128 + math.copysign(1e-6, strength)))  # cut, not rounded
        amounts["translate"] = [shift, 0.0] if kind == "translate-x" else [0.0, shift]
    return reference.affine(clip.double(), scale=1.0, interpolation=InterpolationMode.NEAREST, **amounts)


@pytest.mark.parametrize("side", [32, 48, 128])
def test_each_clip_is_mirrored_and_distorted_as_torchvision_does_it(side):
    changes, frames = _changes(60, side), _counts(60, 2, side)
    assert set(changes.kind.tolist()) == set(range(len(KINDS))) and 10 < changes.mirrored.sum() < 50
    found = resampled(frames, *sources(changes, side))
    assert found.dtype == torch.float32 and found.shape == frames.shape
    for index, clip in enumerate(frames):
        assert torch.equal(found[index].double(), _expected(clip, changes, index).double()), KINDS[changes.kind[index]]


def test_without_neuromorphic_clips_are_only_mirrored():
    changes, frames = _changes(60, 16, Augment(flip=True)), _counts(60, 2, 16)
    found = resampled(frames, *sources(changes, 16))
    for index, clip in enumerate(frames):
        assert torch.equal(found[index], clip.flip(3) if changes.mirrored[index] else clip)
    assert 15 < changes.mirrored.sum() < 45


def test_without_flip_nothing_is_mirrored():
    assert not _changes(200, 16, Augment(neuromorphic=True)).mirrored.any()


def test_kinds_strengths_and_boxes_have_the_published_ranges():
    changes = _changes(20_000, 128)
    assert 0.48 < changes.mirrored.float().mean() < 0.52
    assert (changes.kind.bincount(minlength=6) / 20_000 - 1 / 6).abs().max() < 0.01
    values, counts = changes.strength.unique(return_counts=True)
    torch.testing.assert_close(values, torch.linspace(-1, 1, 31))
    assert (counts / 20_000 - 1 / 31).abs().max() < 0.006
    top, left, height, width = changes.box.unbind(1)
    area = height * width / 128**2
    assert torch.equal(height, width)
    assert 0.0005 < area.min() < 0.002 and 0.105 < area.max() < 0.115 and 0.052 < area.mean() < 0.059
    for corner, size in ((top, height), (left, width)):
        assert corner.min() == 0 and (corner + size).max() == 128
        assert (corner / (128 - size)).mean().sub(0.5).abs() < 0.01


def test_cutouts_have_the_sizes_and_places_of_the_published_code():
    """BKDSNN, Spikingformer-CML/cifar10-dvs/autoaugment.py: torchvision's erasing, scale 0.001 to 0.11, ratio 1."""
    torch.manual_seed(0)
    frame = torch.zeros(2, 128, 128)
    published = [RandomErasing.get_params(frame, (0.001, 0.11), (1, 1), [0.0])[:4] for _ in range(4000)]
    for theirs, ours in zip(zip(*published), _changes(4000, 128).box.T, strict=True):
        theirs = torch.tensor(theirs, dtype=torch.double)
        assert abs(theirs.mean() - ours.double().mean()) < 4 * theirs.std() * math.sqrt(2 / 4000)
        assert abs(theirs.std() - ours.double().std()) < 0.06 * theirs.std()


def test_a_translation_leaves_as_many_frames_in_place_as_in_the_published_code():
    """Same file: 31 steps from -5 to 5 pixels of 128, cut to whole pixels, of which 5 / 31 = 0.161 are none.

    That is exact; in single precision some builds of torch put a whole number of pixels just below it.
    """
    changes = _changes(60_000, 128, Augment(neuromorphic=True))
    shifts = -inverse(changes, 128)[changes.kind == KINDS.index("translate-x"), 0, 2]
    published = [int(Fraction(step, 3)) for step in range(-15, 16)]
    for pixels in range(-5, 6):
        share = published.count(pixels) / len(published)
        assert (shifts == pixels).double().mean().item() == pytest.approx(share, abs=0.015)
    assert published.count(0) / len(published) == pytest.approx(0.161, abs=0.001)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("strength", [1.0, -0.94, 0.5, -0.1, -1.0])
def test_translations_are_of_the_whole_frame_and_scale_with_the_side(side, strength):
    frames, still = _counts(1, 1, side), torch.zeros(1, dtype=torch.bool)
    kind, box = torch.tensor([KINDS.index("translate-y")]), torch.zeros(1, 4, dtype=torch.long)
    found = resampled(frames, *sources(Changes(still, kind, torch.tensor([strength]), box), side))
    shift = int(strength * 5 * side / 128)
    expected = torch.roll(frames, shift, 3)
    expected[..., slice(0, shift) if shift >= 0 else slice(shift, None), :] = 0
    assert torch.equal(found, expected)


def _pairs(frames: Tensor) -> Tensor:
    """(B, 2 T, ...) summed by twos to (B, T, ...)."""
    return frames.unflatten(1, (-1, 2)).sum(2)


def test_student_and_teacher_versions_stay_the_same_recording():
    shown = _counts(40, 8, 32)
    augment = ClipAugment(BOTH, seed=3)
    images, changed = augment([_pairs(shown), shown], 2, 5)
    assert torch.equal(images, _pairs(changed))
    assert not torch.equal(changed, shown) and not torch.equal(images, _pairs(shown))


def test_all_frames_and_both_polarities_change_alike():
    frames = _counts(40, 1, 32)[:, :, :1].expand(40, 5, 2, 32, 32)
    (found,) = ClipAugment(BOTH, seed=3)([frames], 0, 0)
    assert torch.equal(found, found[:, :1, :1].expand_as(found)) and not torch.equal(found, frames)


def _augmented(places: list[tuple[int, int]], seed: int = 0) -> Iterator[bytes]:
    for place in places:
        (found,) = ClipAugment(BOTH, seed)([_counts(8, 2, 16)], *place)
        yield found.numpy().tobytes()


def test_augmentation_depends_on_seed_epoch_and_step_only():
    places = [(0, 0), (0, 1), (1, 0)]
    first = list(_augmented(places))
    torch.rand(3)
    assert list(_augmented(places[::-1])) == first[::-1]
    assert len({*first, *_augmented(places[:1], seed=1)}) == 4


def test_without_augmentation_the_very_frames_come_back():
    frames = _counts(2, 2, 8)
    assert ClipAugment(Augment(), 0)([frames], 0, 0)[0] is frames


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_clips_as_the_cpu():
    frames = _counts(64, 4, 128)
    (expected,) = ClipAugment(BOTH, seed=3)([frames], 1, 2)
    (found,) = ClipAugment(BOTH, seed=3)([frames.cuda()], 1, 2)
    assert torch.equal(found.cpu(), expected)
