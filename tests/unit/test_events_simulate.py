"""The simulated sensor and the embedded sets that it records."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from bkdsnn.config import Dataset, Events, Simulated
from bkdsnn.core.errors import UserError
from bkdsnn.data.digits import TRAIN_SCANS, load_scans
from bkdsnn.data.events import formats
from bkdsnn.data.events.layouts import items
from bkdsnn.data.events.recording import Recording
from bkdsnn.data.events.simulate import DURATION, PAPER, Scene, build, record

LAYOUTS = ["cifar10-dvs", "dvs128-gesture", "n-caltech101", "n-mnist", "n-cars", "dvs-lip"]


def _spec(layout: str = "n-mnist", classes: int = 10, sensor: tuple[int, int] = (24, 32), **options) -> Dataset:
    return Dataset(
        name="moving",
        format="events",
        classes=classes,
        image_size=32,
        events=Events(layout=layout, sensor=sensor, simulated=Simulated(**{"train": 24, "test": 13, **options})),
    )


def _film(*levels: float, pixels: int = 1) -> np.ndarray:
    """Return intensities (S, 1, pixels) whose logarithm lies `levels` above that of paper in the last pixel."""
    film = np.zeros((len(levels), 1, pixels))
    film[:, 0, -1] = PAPER * (np.exp(levels) - 1)
    return film


def _columns(recording: Recording) -> list[tuple[int, ...]]:
    return [tuple(map(int, event)) for event in zip(*recording, strict=True)]


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _clips(dataset: Dataset, folder: Path) -> list[tuple[int, int, Recording]]:
    """Return split, label and events of all recordings."""
    found = []
    for split, listed in enumerate(items(dataset, folder)):
        for path, label, start, end in listed:
            recording = formats.read(folder / path, dataset.events)
            if start is not None:
                recording = recording.between(start, end)
                recording = recording._replace(t=recording.t - start)
            found.append((split, label, recording))
    return found


def test_a_ramp_gives_one_event_per_threshold_at_interpolated_times():
    recording = record(_film(0.0, 1.0, 1.1, pixels=3), np.array([0, 1000, 2000]), 0.3)
    assert _columns(recording) == [(300, 2, 0, 1), (600, 2, 0, 1), (900, 2, 0, 1)]


def test_a_fall_gives_off_events_and_begins_at_the_last_event_not_at_the_last_extreme():
    recording = record(_film(0.0, 0.7, 0.3, 0.0), np.array([0, 700, 1100, 1400]), 0.25)
    # ON at 0.25 and 0.5; OFF one threshold below the last event: at 0.25, and at 0
    assert _columns(recording) == [(250, 0, 0, 1), (500, 0, 0, 1), (1150, 0, 0, 0), (1400, 0, 0, 0)]


def test_a_change_below_the_threshold_and_constant_light_give_nothing():
    assert not len(record(_film(0.0, 0.29, 0.0, 0.29), np.arange(4), 0.3).t)
    assert not len(record(np.full((5, 4, 3), 0.7), np.arange(5), 0.01).t)


def test_small_changes_add_up_to_an_event():
    recording = record(_film(*np.linspace(0, 0.5, 11)), np.arange(11) * 100, 0.4)
    assert _columns(recording) == [(800, 0, 0, 1)]


def test_events_of_all_pixels_come_in_the_order_of_time_with_their_addresses():
    film = np.zeros((2, 2, 3))
    film[1, 1, 0], film[1, 0, 2] = PAPER * (np.exp([0.5, 1.0]) - 1)
    recording = record(film, np.array([0, 1000]), 0.4)
    assert _columns(recording) == [(400, 2, 0, 1), (800, 2, 0, 1), (800, 0, 1, 1)]
    assert [column.dtype for column in recording] == [np.int64, np.uint16, np.uint16, np.uint8]


def test_on_a_closed_path_every_pixel_gains_as_much_as_it_loses():
    scene = Scene(_spec(sensor=(32, 32)), 0)
    for index in range(10):
        t, x, y, p = scene.recording(index)
        balance = np.zeros((32, 32), dtype=int)
        np.add.at(balance, (y, x), np.where(p == 1, 1, -1))
        assert not balance.any()
        assert len(t) > 200 and t[0] >= 0 and t[-1] <= DURATION and (np.diff(t) >= 0).all()


def test_digits_move_both_ways_round_from_everywhere_and_not_alike_in_both_splits():
    turns = []
    for split in (0, 1):
        scene, starts = Scene(_spec(sensor=(32, 32), amplitude=5.0), split), set()
        for index in range(60):
            t, x, y, _ = scene.recording(index)
            parts = np.array_split(np.arange(len(t)), 12)
            centres = np.array([(x[part].mean(), y[part].mean()) for part in parts])
            first, quarter = centres[0] - centres.mean(0), centres[3] - centres.mean(0)
            turns.append(bool(first[0] * quarter[1] > first[1] * quarter[0]))
            starts.add(tuple(first > 0))
        assert 15 < sum(turns[-60:]) < 45
        assert len(starts) == 4
    assert turns[:60] != turns[60:]


def test_contrast_differs_between_recordings_but_none_is_faint():
    scene = Scene(_spec(sensor=(32, 32)), 0)
    recordings = [scene.recording(index) for index in range(40)]
    per_lit_pixel = [len(one.t) / len(set(zip(one.x.tolist(), one.y.tolist(), strict=True))) for one in recordings]
    assert min(len(one.t) for one in recordings) > 500
    assert max(per_lit_pixel) > 1.9 * min(per_lit_pixel)


def test_a_higher_threshold_gives_fewer_events_and_a_wider_path_more_lit_pixels():
    counts = [len(Scene(_spec(threshold=threshold), 0).recording(0).t) for threshold in (0.2, 0.4, 0.8)]
    assert counts[0] > counts[1] > counts[2] > 0
    narrow, wide = (Scene(_spec(amplitude=amplitude), 0).recording(0) for amplitude in (1.0, 4.0))
    lit = [len(set(zip(one.x.tolist(), one.y.tolist(), strict=True))) for one in (narrow, wide)]
    assert lit[1] > 1.2 * lit[0]


def test_noise_has_the_stated_rate_and_leaves_the_digit_as_it_was():
    rate, seconds = 40.0, DURATION / 1e6
    clean, noisy = (Scene(_spec(noise=noise), 0) for noise in (0.0, rate))
    extra = [len(noisy.recording(index).t) - len(clean.recording(index).t) for index in range(8)]
    assert abs(np.mean(extra) / (rate * 24 * 32 * seconds) - 1) < 0.03 and len(set(extra)) > 1
    assert set(_columns(clean.recording(0))) <= set(_columns(noisy.recording(0)))
    t, x, y, p = noisy.recording(0)
    assert (np.diff(t) >= 0).all() and x.max() == 31 and y.max() == 23 and 0.4 < p.mean() < 0.6


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_recordings_show_digits_of_their_class_from_scans_of_their_split(classes):
    scans, values = (each.numpy() for each in load_scans())
    for split, part in enumerate([slice(None, TRAIN_SCANS), slice(TRAIN_SCANS, None)]):
        scene, shown = Scene(_spec(classes=classes), split), set()
        for index in range(60):
            (same,) = np.nonzero((scans[part] == scene.scan(index)).all((1, 2)))
            assert len(same) and (values[part][same] % classes == scene.label(index)).all()
            shown |= set(same)
        assert len(shown) > 45


def test_the_events_lie_where_the_stroke_of_the_scan_passes():
    scene = Scene(_spec(sensor=(64, 48), amplitude=0.5), 0)
    side = 32  # 2/3 of 48
    for index in range(5):
        ink = np.kron(scene.scan(index) > 0, np.ones((side // 8, side // 8)))
        reach = np.pad(ink, ((16, 16), (8, 8)))
        near = sum(np.roll(reach, (dy, dx), (0, 1)) for dy in range(-5, 6) for dx in range(-5, 6)) > 0
        recording = scene.recording(index)
        assert near[recording.y, recording.x].all()
        assert near.mean() < 0.6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_set_is_built_in_its_own_layout_and_listed_with_its_splits_and_labels(layout, tmp_path):
    classes = 2 if layout == "n-cars" else 10
    dataset = _spec(layout, classes)
    build(dataset, tmp_path / "moving")
    found = _clips(dataset, tmp_path / "moving")
    for split, count in enumerate((24, 13)):
        labels = [label for where, label, _ in found if where == split]
        assert sorted(labels) == sorted(index % classes for index in range(count))
    scenes = [Scene(dataset, split) for split in (0, 1)]
    drawn = {split: [scene.recording(index) for index in range(scene.count)] for split, scene in enumerate(scenes)}
    for split, label, recording in found:  # the file of each recording holds exactly its events
        same_class = drawn[split][label::classes]
        assert sum(_columns(recording) == _columns(one) for one in same_class) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["moving"]


def test_file_names_follow_the_published_sets(tmp_path):
    first = {
        "cifar10-dvs": "0/cifar10_0_0000.aedat",
        "n-caltech101": "0/image_0000.bin",
        "n-mnist": "Train/0/00000.bin",
        "n-cars": "n-cars_train/0/obj_000000_td.dat",
        "dvs-lip": "train/0/0000.npy",
        "dvs128-gesture": "user01_natural.aedat",
    }
    for layout, path in first.items():
        dataset = _spec(layout, 2, train=2, test=2)
        build(dataset, tmp_path / layout)
        assert items(dataset, tmp_path / layout)[0][0].path == path


def test_gestures_follow_one_another_with_gaps_and_a_file_ends_after_ten(tmp_path):
    dataset = _spec("dvs128-gesture", 10)
    build(dataset, tmp_path / "moving")
    train, test = items(dataset, tmp_path / "moving")
    assert [item.path for item in train] == [f"user0{1 + index // 10}_natural.aedat" for index in range(24)]
    assert [item.path for item in test] == [f"user0{4 + index // 10}_natural.aedat" for index in range(13)]
    for last, item in itertools.pairwise(train[:10]):
        assert last.end < item.start
    whole = formats.read(tmp_path / "moving" / train[0].path, dataset.events)
    assert len(whole.t) == sum(len(whole.between(item.start, item.end).t) for item in train[:10])


@pytest.mark.parametrize("layout", ["cifar10-dvs", "dvs128-gesture", "dvs-lip"])
def test_the_same_spec_gives_the_same_bytes_in_place_of_what_was_there(layout, tmp_path):
    dataset = _spec(layout, noise=2.0, train=12, test=10)
    build(dataset, tmp_path / "one")
    first = _digests(tmp_path / "one")
    (tmp_path / "one" / "left-over").touch()
    build(dataset, tmp_path / "one")
    assert _digests(tmp_path / "one") == first and len(first) >= 3


def test_a_recording_does_not_depend_on_how_many_there_are():
    few, many = (Scene(_spec(train=train), 0) for train in (24, 500))
    assert _columns(few.recording(23)) == _columns(many.recording(23))
    assert _columns(few.recording(3)) != _columns(few.recording(13))  # of the same class


@pytest.mark.parametrize("options", [{"threshold": 9.0}, {"amplitude": 300.0}])
def test_a_digit_without_events_is_refused_and_nothing_remains(options, tmp_path):
    with pytest.raises(UserError, match=r"misses a whole digit; expected a lower 'events\.simulated\.threshold'"):
        build(_spec(**options), tmp_path / "moving")
    assert not list(tmp_path.iterdir())


def test_impossible_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match="found 11 classes, but there are 10 digits"):
        build(_spec(classes=11), tmp_path / "moving")
    with pytest.raises(UserError, match=r"'events\.simulated\.test' is 9, expected at least one recording for each"):
        build(_spec(test=9), tmp_path / "moving")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*moving: .*no folder"):
        build(_spec(), tmp_path / "file" / "moving")


def test_digits_can_be_told_from_their_counts_but_not_always():
    from sklearn.linear_model import LogisticRegression

    def counts(split: int) -> tuple[np.ndarray, list[int]]:
        scene = Scene(_spec(sensor=(32, 32), train=250, test=100), split)
        frames = np.zeros((scene.count, 16, 16))
        for index, frame in enumerate(frames):
            _, x, y, _ = scene.recording(index)
            np.add.at(frame, (y // 2, x // 2), 1)
        return np.log1p(frames).reshape(scene.count, -1), [scene.label(index) for index in range(scene.count)]

    accuracy = LogisticRegression(max_iter=500).fit(*counts(0)).score(*counts(1))
    assert 0.6 < accuracy < 0.99
