"""Mixing and smoothing against timm; seeded global generators."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from torch.nn import functional

from bkdsnn.config import Mix, Recipe
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import key, seeded
from bkdsnn.data.loader import Batch
from bkdsnn.data.mixing import Mixing, smoothed

MIXES = [
    Mix(mixup=0.5),
    Mix(cutmix=1.0),
    Mix(mixup=0.8, cutmix=1.0),
    Mix(mixup=0.8, cutmix=1.0, probability=0.5, switch=0.2),
]


def _recipe(**fields) -> Recipe:
    return Recipe(**{"epochs": 300, "batch_size": 6, "optimizer": "adamw", "lr": 1e-3} | fields)


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=draws), torch.randint(0, 10, (6,), generator=draws)


def _shown(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    """A batch of which a teacher sees the very images."""
    return Batch(images, images, labels)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixing_is_timms_in_batch_mode(mix, smoothing):
    mixing = Mixing(_recipe(mix=mix, label_smoothing=smoothing), 10, seed=4)
    published = Mixup(mix.mixup, mix.cutmix, None, mix.probability, mix.switch, "batch", True, smoothing, 10)
    for step in range(20):
        images, shown, targets = mixing(_shown(*_batch()), 3, step)
        with seeded(4, "mixing", 3, step):
            expected_images, expected_targets = published(*_batch())
        assert torch.equal(images, expected_images) and torch.equal(targets, expected_targets)
        assert shown is images
        assert targets.shape == (6, 10) and targets.dtype == torch.float32


def test_mixed_targets_are_those_of_the_mixed_images():
    images, labels = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 8).clone(), torch.arange(6)
    mixed, _, targets = Mixing(_recipe(mix=Mix(mixup=0.5)), 6, seed=0)(_shown(images, labels), 0, 0)
    assert not torch.equal(targets, functional.one_hot(labels, 6).float())
    torch.testing.assert_close(targets @ torch.arange(6.0), mixed[:, 0, 0, 0])


def test_from_off_epoch_on_images_stay_and_targets_are_smoothed_as_by_timm():
    mixing = Mixing(_recipe(mix=Mix(mixup=0.5, off_epoch=200), label_smoothing=0.1), 10, seed=4)
    published = Mixup(0.5, label_smoothing=0.1, num_classes=10)
    published.mixup_enabled = False
    whole, labels = _batch()
    for epoch, mixes in ((199, True), (200, False), (309, False)):
        images, _, targets = mixing(_shown(*_batch()), epoch, 0)
        assert torch.equal(images, whole) != mixes
    assert torch.equal(targets, published(whole, labels)[1])
    assert torch.equal(targets, mixing(_shown(*_batch()), 200, 5).labels)


def test_mixing_without_an_end_goes_on():
    mixed = Mixing(_recipe(mix=Mix(mixup=0.8)), 10, seed=0)(_shown(*_batch()), 309, 0)
    assert not torch.equal(mixed.images, _batch()[0])


def test_without_mix_and_smoothing_inputs_come_back_themselves():
    images, labels = _batch()
    found = Mixing(_recipe(batch_size=5), 10, seed=0)(_shown(images, labels), 0, 0)
    assert found.images is images and found.teacher_input is images and found.labels is labels


def test_smoothing_alone_gives_the_cross_entropy_of_torch():
    images, labels = _batch()
    mixing = Mixing(_recipe(batch_size=5, label_smoothing=0.1), 10, seed=0)
    found, _, targets = mixing(_shown(images, labels), 0, 0)
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    assert found is images
    torch.testing.assert_close(
        functional.cross_entropy(logits, targets), functional.cross_entropy(logits, labels, label_smoothing=0.1)
    )
    assert torch.equal(smoothed(labels, 10, 0.0), functional.one_hot(labels, 10).float())


def test_an_odd_batch_is_refused_before_training():
    with pytest.raises(UserError, match="'batch_size' is 25; 'mix' pairs"):
        Mixing(_recipe(batch_size=25, mix=Mix(mixup=0.5)), 10, seed=0)


def test_mixing_depends_on_seed_epoch_and_step_only():
    recipe = _recipe(mix=Mix(mixup=0.5, cutmix=1.0), label_smoothing=0.1)
    places = [(epoch, step) for epoch in (0, 1) for step in range(3)]
    first = {place: Mixing(recipe, 10, seed=0)(_shown(*_batch()), *place) for place in places}
    mixing = Mixing(recipe, 10, seed=0)
    for place in reversed(places):
        np.random.rand(3)
        assert all(map(torch.equal, mixing(_shown(*_batch()), *place), first[place]))
    assert len({batch.images.numpy().tobytes() for batch in first.values()}) == 6
    assert not torch.equal(Mixing(recipe, 10, seed=1)(_shown(*_batch()), 0, 0).images, first[0, 0].images)


@pytest.mark.parametrize("mix", MIXES)
def test_frames_are_mixed_alike_in_time_and_for_student_and_teacher(mix):
    draws = torch.Generator().manual_seed(0)
    shown, labels = torch.randint(0, 9, (6, 8, 2, 16, 16), generator=draws).float(), torch.arange(6)
    frames = shown.view(6, 4, 2, 2, 16, 16).sum(2)  # two frames of the teacher's make one of the student's
    mixing, changed = Mixing(_recipe(mix=mix), 10, seed=4), 0
    for step in range(6):
        mixed = mixing(Batch(frames.clone(), shown.clone(), labels), 0, step)
        with seeded(4, "mixing", 0, step):
            published = Mixup(mix.mixup, mix.cutmix, None, mix.probability, mix.switch, "batch", True, 0.0, 10)
            images, targets = published(frames.flatten(1, 2).clone(), labels)
        assert torch.equal(mixed.images.flatten(1, 2), images) and torch.equal(mixed.labels, targets)
        assert mixed.images.shape == frames.shape and mixed.teacher_input.shape == shown.shape
        torch.testing.assert_close(mixed.teacher_input.view(6, 4, 2, 2, 16, 16).sum(2), mixed.images)
        changed += not torch.equal(mixed.images, frames)
    assert changed > 1


def test_global_generators_are_seeded_within_and_as_before_afterwards():
    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.randn(), torch.rand(()).item()  # randn keeps a second number for later

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    draws()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
    with pytest.raises(ZeroDivisionError), seeded(0, "mixing", 1, 2):
        inside = draws()
        raise ZeroDivisionError
    assert draws() == expected
    with seeded(0, "mixing", 1, 2):
        assert draws() == inside
    for other in ((1, "mixing", 1, 2), (0, "erasing", 1, 2), (0, "mixing", 1, 3)):
        with seeded(*other):
            assert not set(draws()) & set(inside)
    assert key(0, "mixing", 1, 2) >> 32  # both halves of the key reach NumPy, whose seeds have 32 bits


def test_a_recipe_that_does_not_mix_loads_no_timm():
    command = """
import sys, torch
from bkdsnn.data.loader import Batch
from bkdsnn.data.mixing import Mixing
from bkdsnn.training.optim import make_optimizer
from bkdsnn.config import Recipe
recipe = Recipe(epochs=2, batch_size=4, optimizer="adamw", lr=0.1, label_smoothing=0.1, decay_vectors=False)
images = torch.zeros(4, 3, 2, 2)
Mixing(recipe, 3, 0)(Batch(images, images, torch.zeros(4, dtype=torch.int64)), 0, 0)
make_optimizer(recipe, torch.nn.Linear(2, 2).parameters())
print([m for m in ("torchvision", "timm", "pandas", "matplotlib", "scipy", "sklearn") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
