"""Frames from events: how a recording is integrated."""

from pathlib import Path

import numpy as np
import pytest
from recordings_example import recording
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number

from bkdsnn.config import Events
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import frames
from bkdsnn.data.events.recording import Recording

ROOT = Path(__file__).parents[2]


def events(sensor=(34, 34), slices="count", layout="n-mnist"):
    return Events(layout=layout, sensor=sensor, slices=slices)


def single(t=0, x=0, y=0, p=0):
    return Recording.of(*(np.array([value]) for value in (t, x, y, p)))


def placed(sensor, side, x, y):
    """Row and column of the frame where the event at (x, y) is counted."""
    (where,) = np.argwhere(frames.integrate(single(x=x, y=y), 1, events(sensor), side))
    return tuple(where[2:])


# ---- Integration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", ["count", "time"])
@pytest.mark.parametrize(("count", "timesteps"), [(4000, 4), (4001, 8), (997, 10), (5003, 16)])
def test_frames_are_those_of_spikingjelly(slices, count, timesteps):
    sensor = (20, 30)
    shown = recording(count, sensor, seed=count)
    split = {"count": "number", "time": "time"}[slices]
    expected = integrate_events_by_fixed_frames_number(shown._asdict(), split, timesteps, *sensor)
    found = frames.integrate(shown, timesteps, events(sensor, slices), 30)
    assert found.dtype == np.uint16 and found.shape == (timesteps, 2, 30, 30)
    assert np.array_equal(found[:, :, 5:25], expected) and not found[:, :, :5].any() and not found[:, :, 25:].any()


@pytest.mark.parametrize("slices", ["count", "time"])
@pytest.mark.parametrize("seed", range(12))
def test_every_event_is_counted_once_with_its_polarity_whether_scaled_or_centred(slices, seed):
    draws = np.random.default_rng(seed)
    sensor, side = tuple(draws.integers(1, 60, 2).tolist()), int(draws.integers(1, 60))
    count, timesteps = int(draws.integers(1, 500)), int(draws.integers(1, 20))
    shown = recording(count, sensor, seed)
    found = frames.integrate(shown, timesteps, events(sensor, slices), side)
    assert found.shape == (timesteps, 2, side, side)
    assert found.sum(axis=(0, 2, 3)).tolist() == np.bincount(shown.p, minlength=2).tolist()
    if slices == "count":
        share = count // timesteps
        assert found.sum(axis=(1, 2, 3)).tolist() == [share] * (timesteps - 1) + [count - share * (timesteps - 1)]


def test_fewer_events_than_frames_fall_into_the_last():
    found = frames.integrate(recording(3), 4, events(), 34)
    assert found.sum(axis=(1, 2, 3)).tolist() == [0, 0, 0, 3]


def test_a_part_of_time_without_events_is_a_frame_of_zeros_and_the_last_part_is_closed():
    t = np.array([100, 124, 125, 199, 200])
    shown = Recording.of(t, np.arange(5), *np.zeros((2, 5), int))
    found = frames.integrate(shown, 4, events(slices="time"), 34)
    columns = [np.flatnonzero(frame.sum(axis=(0, 1))).tolist() for frame in found]
    assert columns == [[0, 1], [2], [], [3, 4]]


def test_a_moment_shorter_than_the_frames_falls_into_the_last():
    shown = Recording.of(np.array([7, 8, 9]), *np.zeros((3, 3), int))
    assert frames.integrate(shown, 4, events(slices="time"), 34).sum(axis=(1, 2, 3)).tolist() == [0, 0, 0, 3]


def test_channel_0_counts_off_and_channel_1_on():
    for p in (0, 1):
        assert np.argwhere(frames.integrate(single(x=3, y=5, p=p), 1, events(), 34)).tolist() == [[0, p, 5, 3]]


@pytest.mark.parametrize(
    ("sensor", "side", "corners"),
    [
        ((128, 128), 128, [(0, 0), (127, 127)]),
        ((34, 34), 48, [(7, 7), (40, 40)]),
        ((100, 120), 128, [(14, 4), (113, 123)]),  # N-CARS: smaller, centred
        ((180, 240), 128, [(16, 0), (111, 127)]),  # N-Caltech101: 96 x 128, centred
        ((128, 128), 32, [(0, 0), (31, 31)]),
        ((40, 20), 20, [(0, 5), (19, 14)]),
        ((5, 5), 8, [(1, 1), (5, 5)]),  # an odd margin: the larger part lies below and on the right
    ],
)
def test_a_large_sensor_is_scaled_and_a_small_map_is_centred(sensor, side, corners):
    height, width = sensor
    assert [placed(sensor, side, 0, 0), placed(sensor, side, width - 1, height - 1)] == corners


def test_addresses_are_scaled_by_integer_arithmetic():
    for x in (0, 1, 2, 15, 16, 100, 238):
        assert placed((180, 240), 128, x, 90) == (16 + 90 * 128 // 240, x * 128 // 240)


def test_more_events_than_a_count_can_hold_are_refused():
    most = np.iinfo(np.uint16).max
    full = Recording.of(*np.zeros((4, most), int))
    assert frames.integrate(full, 1, events(), 34).max() == most
    more = Recording.of(*np.zeros((4, most + 1), int))
    with pytest.raises(UserError, match="a pixel has 65,536 events in one of 1 frames, at most 65,535"):
        frames.integrate(more, 1, events(), 34)
