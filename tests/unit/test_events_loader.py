"""Batches of clips of events: order, resume, memory maps, and the same recordings for student and teacher."""

import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from bkdsnn.config import Augment, Dataset, Digits, Events, ResizedCrop, Simulated
from bkdsnn.core.errors import UserError
from bkdsnn.data import open_data, prepare
from bkdsnn.data.events import frames
from bkdsnn.data.events.event_loader import EventLoader
from bkdsnn.data.events.frames import Clips

CPU = torch.device("cpu")
BOTH = Augment(flip=True, neuromorphic=True)
SIDE = 16
EMBEDDED = Dataset(
    name="tiny-events",
    format="events",
    classes=10,
    image_size=SIDE,
    events=Events(layout="cifar10-dvs", sensor=(SIDE, SIDE), simulated=Simulated(train=90, test=10)),
)


def _clips(folder: Path, train: int = 50, test: int = 23) -> tuple[Clips, Clips]:
    """Frames with T = 4 and T = 8 of the same recordings, one of the former the sum of two of the latter."""
    numbers = np.random.default_rng(0)
    fields: list[list[np.ndarray]] = [[], []]
    for name, count in (("train", train), ("test", test)):
        fine = numbers.integers(0, 40_000, (count, 8, 2, SIDE, SIDE), dtype=np.uint16) // 2
        for parts, array in zip(fields, (fine.reshape(count, 4, 2, 2, SIDE, SIDE).sum(2, dtype=np.uint16), fine)):
            np.save(folder / f"{name}-{array.shape[1]}.npy", array)
            parts += [np.load(folder / f"{name}-{array.shape[1]}.npy", mmap_mode="r"), np.arange(count)]
    return Clips(*fields[0]), Clips(*fields[1])


def _loader(clips: Clips, taught: Clips, augment: Augment = BOTH, seed: int = 3) -> EventLoader:
    return EventLoader(clips, taught, "digest", batch_size=16, augment=augment, seed=seed, device=CPU)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The clips for the student and those for its teacher."""
    return _clips(tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize("augment", [Augment(), BOTH], ids=["plain", "augmented"])
def test_student_and_teacher_see_the_same_recordings(pair, augment):
    for images, shown, labels in _loader(*pair, augment).train(1):
        assert images.shape == (16, 4, 2, SIDE, SIDE) and shown.shape == (16, 8, 2, SIDE, SIDE)
        assert images.dtype == shown.dtype == torch.float32 and labels.dtype == torch.int64
        assert torch.equal(images, shown.unflatten(1, (4, 2)).sum(2))
        if not augment.flip:
            assert np.array_equal(images, pair[0].train[labels.numpy()])


def test_with_one_t_the_teacher_sees_the_very_tensor_that_the_student_sees(pair):
    assert all(batch.teacher_input is batch.images for batch in _loader(pair[0], pair[0]).train(0))


@pytest.mark.parametrize("first_step", [0, 1, 2, 3])
def test_a_resumed_epoch_yields_the_same_bits_as_the_rest_of_a_whole_one(pair, first_step):
    whole, resumed = list(_loader(*pair).train(5)), list(_loader(*pair).train(5, first_step))
    assert len(resumed) == 3 - first_step
    for batch, again in zip(whole[first_step:], resumed, strict=True):
        assert all(map(torch.equal, batch, again))


def test_an_epoch_visits_every_recording_at_most_once_and_drops_the_incomplete_batch(pair):
    loader = _loader(*pair)
    labels = torch.cat([batch.labels for batch in loader.train(0)])
    assert (loader.steps, loader.train_size, loader.test_size, loader.digest) == (3, 50, 23, "digest")
    assert len(labels) == 48 and len(labels.unique()) == 48


def test_order_and_augmentation_change_with_epoch_and_seed_only(pair):
    first = [next(_loader(*pair, seed=seed).train(epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for one, other in itertools.combinations(first, 2):
        assert not torch.equal(one.labels, other.labels)
    plain = next(_loader(*pair, augment=Augment(), seed=0).train(0))
    assert torch.equal(plain.labels, first[0].labels) and not torch.equal(plain.images, first[0].images)


def test_test_recordings_come_in_order_once_as_raw_counts(pair):
    batches = list(_loader(*pair).test())
    assert [len(labels) for _, labels in batches] == [16, 7]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(23))
    assert np.array_equal(torch.cat([images for images, _ in batches]), pair[0].test)
    assert pair[0].test.max() > 32_767  # more than two signed bytes hold


def test_only_the_batch_is_read_into_memory(pair):
    loader = _loader(*pair)
    next(loader.train(0)), next(loader.test())
    tracemalloc.start()
    next(loader.train(1)), next(loader.test())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 16 * pair[1].train[0].nbytes < peak < pair[1].train.nbytes


def test_overwriting_a_batch_leaves_the_recordings_alone(pair):
    loader = _loader(*pair, Augment())
    batch = next(loader.train(0))
    before = batch.images.clone()
    for version in batch[:2]:
        version.zero_()
    assert torch.equal(next(loader.train(0)).images, before)


@pytest.mark.parametrize("field", ["train_labels", "test_labels"])
def test_clips_of_other_recordings_are_refused(pair, field):
    swapped = getattr(pair[1], field)[::-1]
    with pytest.raises(UserError, match=r"T = 4 .* and T = 8 .* other labels.*`python -m bkdsnn frames`"):
        _loader(pair[0], pair[1]._replace(**{field: swapped}))


# --- opened by name ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Embedded recordings, prepared, with frames for T = 2 and T = 4."""
    path = tmp_path_factory.mktemp("data") / f"{EMBEDDED.name}.json"
    prepare(EMBEDDED, None, path)
    for timesteps in (2, 4):
        frames.convert(EMBEDDED, path, timesteps)
    return path


def _open(manifest: Path, augment: Augment = BOTH, dataset: Dataset = EMBEDDED, **timesteps: int):
    return open_data(dataset, manifest, batch_size=30, augment=augment, seed=0, device=CPU, **timesteps)


def test_opened_recordings_are_those_of_the_manifest_for_student_and_teacher(manifest):
    loader = _open(manifest, timesteps=2, teacher_timesteps=4)
    assert (loader.train_size, loader.test_size, loader.steps) == (90, 10, 3)
    for images, shown, _ in loader.train(0):
        assert (images.shape[1], shown.shape[1]) == (2, 4) and images.sum() > 0
        assert torch.equal(images.sum(1), shown.sum(1))  # all events of a recording, whatever T
    ((images, labels),) = loader.test()
    assert images.shape == (10, 2, 2, SIDE, SIDE) and sorted(labels.tolist()) == list(range(10))


@pytest.mark.parametrize("teacher", [None, 2])
def test_a_teacher_with_the_same_t_needs_no_frames_of_its_own(manifest, teacher):
    batch = next(_open(manifest, timesteps=2, teacher_timesteps=teacher).train(0))
    assert batch.teacher_input is batch.images


@pytest.mark.parametrize("timesteps", [{"timesteps": 8}, {"timesteps": 2, "teacher_timesteps": 8}])
def test_missing_frames_are_named(manifest, timesteps):
    with pytest.raises(UserError, match=r"tiny-events-t8.json is missing"):
        _open(manifest, **timesteps)


@pytest.mark.parametrize(
    "change",
    [{"crop_padding": 2}, {"resized_crop": ResizedCrop()}, {"randaugment": "rand-m9"}, {"erasing": 0.25}],
    ids=lambda change: next(iter(change)),
)
def test_augmentation_of_images_is_refused_for_events(manifest, change):
    key = next(iter(change))
    with pytest.raises(UserError, match=rf"'augment.{key}' does not suit .* 'events'; expected 'neuromorphic'"):
        _open(manifest, Augment(**change), timesteps=2)


def test_augmentation_of_events_is_refused_for_images(tmp_path):
    images = Dataset(
        name="tiny",
        format="digits",
        classes=10,
        image_size=12,
        mean=(0.5, 0.5, 0.5),
        std=(1, 1, 1),
        digits=Digits(train=40, test=20),
    )
    prepare(images, None, tmp_path / "m.json")
    with pytest.raises(UserError, match=r"'augment.neuromorphic' does not suit .* 'digits'; expected 'randaugment'"):
        _open(tmp_path / "m.json", Augment(neuromorphic=True), images)


def test_training_on_events_imports_no_heavy_library(manifest):
    command = f"""
import sys, torch
from pathlib import Path
from bkdsnn.data import open_data
from bkdsnn.config import Augment, Dataset
dataset = Dataset.model_validate_json({EMBEDDED.model_dump_json()!r})
augment = Augment(flip=True, neuromorphic=True)
loader = open_data(dataset, Path({str(manifest)!r}), batch_size=4, augment=augment, seed=0, device=torch.device("cpu"),
                   timesteps=2, teacher_timesteps=4)
next(loader.train(0))
heavy = ("torchvision", "timm", "spikingjelly", "pandas", "matplotlib", "scipy", "sklearn", "PIL")
print([m for m in heavy if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_batches_as_the_cpu(pair):
    loader = EventLoader(*pair, "digest", batch_size=16, augment=BOTH, seed=3, device=torch.device("cuda"))
    for batch, expected in zip(loader.train(2), _loader(*pair).train(2), strict=True):
        assert all(part.is_cuda and torch.equal(part.cpu(), same) for part, same in zip(batch, expected))
