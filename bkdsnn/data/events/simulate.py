"""Embedded events: scikit-learn's handwritten digits, moved on a circle before a simulated sensor.

The strokes are real (1,797 scans of 8 x 8 pixels); contrast, start and direction of the movement, and noise are random.
Training and test recordings use disjoint sets of scans. CIFAR10-DVS was recorded in a similar way, from images moved
along a closed path on a screen (Li et al., 2017). Files and folders are laid out as in a published set.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from bkdsnn.config import Dataset, Simulated
from bkdsnn.core import files
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import generator
from bkdsnn.data.digits import SCAN, SEED, TRAIN_SCANS, load_scans
from bkdsnn.data.events import aedat3, formats
from bkdsnn.data.events.layouts import balanced
from bkdsnn.data.events.published_sets import SPLITS, SUFFIX, TRIALS
from bkdsnn.data.events.recording import Recording

DURATION = 300_000  # of one round, microseconds
SAMPLES = 100  # of the intensity in one round
GLYPH = 2 / 3  # width of a digit as a share of the sensor's shorter side
PAPER = 0.1  # intensity beside the strokes; full ink adds 1
CONTRAST = (0.3, 1.0)  # of ink, drawn for each recording
CLIPS = 10  # in one file of DVS128 Gesture, one after another
GAP = 200_000  # before each of them, microseconds

# File names without suffix; `number` counts the recordings of a class, training before test.
NAMES = {
    "cifar10-dvs": "cifar10_{label}_{number:04}",
    "n-caltech101": "image_{number:04}",
    "n-mnist": "{number:05}",
    "n-cars": "obj_{number:06}_td",
    "dvs-lip": "{number:04}",
}


def build(dataset: Dataset, folder: Path) -> None:
    """Write all recordings of an embedded dataset; the same spec always gives the same bytes.

    Class c of K shows the digits d with d mod K = c; numbers of recordings per class differ by one at most. `folder` is
    only created, or replaced, once it is complete. Raises UserError for a number of classes or recordings that cannot
    be made, for a recording without events, or if `folder` cannot be written.
    """
    assert dataset.events and dataset.events.simulated  # the caller asks for `embedded`
    _check(dataset, dataset.events.simulated)
    write = _write_trials if dataset.events.layout == "dvs128-gesture" else _write_classes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            staged = Path(temporary, folder.name)
            write(dataset, staged)
            if folder.exists():
                shutil.rmtree(folder)
            staged.rename(folder)
    except OSError as error:
        raise files.unwritable(folder, error) from error


def record(intensity: np.ndarray, times: np.ndarray, threshold: float) -> Recording:
    """Return the events of a sensor for `intensity` (S, H, W) >= 0, sampled at ascending `times` (S,), microseconds.

    A pixel reports ON whenever L = log(PAPER + intensity) has risen by `threshold` since its last event (at first:
    since the first sample), OFF when it has fallen by as much. Between samples L is linear, which gives the time of an
    event; it is rounded to whole microseconds. Events come in the order of time.
    """
    _, _, width = intensity.shape
    level = np.log(PAPER + intensity.reshape(len(times), -1))
    level = (level - level[0]) / threshold
    held = _held(level)
    steps = np.diff(held, axis=0)
    before, pixel = np.nonzero(steps)  # the sample before the event, or events
    step = steps[before, pixel]
    source, nth = _expanded(np.abs(step).astype(int))
    before, pixel, sign = before[source], pixel[source], np.sign(step)[source]
    crossed = held[before, pixel] + sign * nth
    start, end = level[before, pixel], level[before + 1, pixel]
    t = times[before] + (crossed - start) / (end - start) * (times[before + 1] - times[before])
    return _ordered(t.round(), pixel % width, pixel // width, sign > 0)


def _held(level: np.ndarray) -> np.ndarray:
    """Return the level (S, P) of each pixel's last event at each sample: whole multiples of the threshold, first 0.

    `level` (S, P) is in units of the threshold as well.
    """
    held = np.zeros_like(level)
    for now, last, seen in zip(held[1:], held, level[1:]):
        now[:] = last + np.trunc(seen - last)
    return held


def _expanded(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of sum(counts) events, the index of its entry in `counts` and its rank there, from 1."""
    source = np.repeat(np.arange(len(counts)), counts)
    return source, np.arange(1, len(source) + 1) - (counts.cumsum() - counts)[source]


def _ordered(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Recording:
    order = t.argsort(kind="stable")
    return Recording.of(t[order], x[order], y[order], p[order])


class Scene:
    """Draws the `count` recordings of one split (0 training, 1 test) from the scans of that split."""

    def __init__(self, dataset: Dataset, split: int) -> None:
        assert dataset.events and dataset.events.simulated
        self._name, self._sensor, self._options = dataset.name, dataset.events.sensor, dataset.events.simulated
        self.count = (self._options.train, self._options.test)[split]
        self._split, self._classes = split, dataset.classes
        part = (slice(None, TRAIN_SCANS), slice(TRAIN_SCANS, None))[split]
        scans, values = (each[part].numpy() for each in load_scans())
        self._scans = [scans[values % self._classes == label] for label in range(self._classes)]

    def label(self, index: int) -> int:
        """Return the class of a recording, from 0; classes alternate."""
        return index % self._classes

    def scan(self, index: int) -> np.ndarray:
        """Draw the scan (8, 8) that recording `index` shows, one of its class."""
        scans = self._scans[self.label(index)]
        return scans[int(torch.randint(len(scans), (), generator=generator(SEED, "data", self._split, index, 0)))]

    def recording(self, index: int) -> Recording:
        """Draw recording `index`; UserError if the digit leaves no events."""
        draws = generator(SEED, "data", self._split, index, 1)
        share, phase, turn = torch.rand(3, generator=draws, dtype=torch.float64).tolist()
        contrast = CONTRAST[0] + share * (CONTRAST[1] - CONTRAST[0])
        path = self._options.amplitude * _circle(phase, clockwise=turn < 0.5)
        ink = contrast * _moving(self.scan(index), path, self._sensor)
        recording = record(ink, np.linspace(0, DURATION, SAMPLES + 1), self._options.threshold)
        if not len(recording.t):
            raise UserError(
                f"dataset '{self._name}': the simulated sensor misses a whole digit; expected a lower "
                f"'events.simulated.threshold' than {self._options.threshold} or a smaller "
                f"'events.simulated.amplitude' than {self._options.amplitude}"
            )
        return _noisy(recording, self._sensor, self._options.noise, draws)


def _circle(phase: float, clockwise: bool) -> np.ndarray:
    """Return displacements (2, S), down and right, along a circle of radius 1; the last equals the first exactly."""
    turned = np.arange(SAMPLES + 1) % SAMPLES / SAMPLES
    angles = 2 * np.pi * (phase + (turned if clockwise else -turned))
    return np.stack([np.sin(angles), np.cos(angles)])


def _moving(scan: np.ndarray, path: np.ndarray, sensor: tuple[int, int]) -> np.ndarray:
    """Return the ink (S, H, W) of a scan (8, 8), enlarged bilinearly and displaced by `path` (2, S) from the centre."""
    size = min(sensor) * GLYPH
    rows, columns = (_weights(side, size, shift) for side, shift in zip(sensor, path))
    return rows @ scan @ columns.transpose(0, 2, 1)


def _weights(side: int, size: float, shift: np.ndarray) -> np.ndarray:
    """Return the weight (S, side, 8) of each row of a scan, enlarged to `size` pixels, at each row of the sensor."""
    places = (np.arange(side) - (side - 1) / 2 - shift[:, None]) * SCAN / size + (SCAN - 1) / 2
    return np.maximum(0, 1 - np.abs(places[..., None] - np.arange(SCAN)))


def _noisy(recording: Recording, sensor: tuple[int, int], rate: float, draws: torch.Generator) -> Recording:
    """Add events at random pixels and times, their number Poisson distributed; ON and OFF are equally likely."""
    height, width = sensor
    mean = torch.tensor(rate * height * width * DURATION / 1e6, dtype=torch.float64)
    count = int(torch.poisson(mean, generator=draws))
    bounds = (DURATION, width, height, 2)
    noise = (torch.randint(0, bound, (count,), generator=draws).numpy() for bound in bounds)
    return _ordered(*(np.concatenate(pair) for pair in zip(recording, noise)))


def _check(dataset: Dataset, options: Simulated) -> None:
    """Raise UserError if some class would have no digit or no recording."""
    if dataset.classes > 10:
        raise UserError(f"dataset '{dataset.name}': found {dataset.classes} classes, but there are 10 digits")
    for key in ("train", "test"):
        if (found := getattr(options, key)) < dataset.classes:
            raise UserError(
                f"dataset '{dataset.name}': 'events.simulated.{key}' is {found}, expected at least one recording "
                f"for each of the {dataset.classes} classes"
            )


def _write_classes(dataset: Dataset, folder: Path) -> None:
    """Write one file per recording, in one folder per class, named after its number."""
    assert dataset.events and dataset.events.simulated
    layout, classes = dataset.events.layout, dataset.classes
    before = [0] * classes, balanced(dataset.events.simulated.train, classes)
    for split, place in enumerate(SPLITS.get(layout, (".", "."))):
        scene = Scene(dataset, split)
        for index in range(scene.count):
            label = scene.label(index)
            name = NAMES[layout].format(label=label, number=before[split][label] + index // classes)
            path = folder / place / str(label) / f"{name}{SUFFIX[layout]}"
            formats.write(path, scene.recording(index), layout)


def _write_trials(dataset: Dataset, folder: Path) -> None:
    """Write the files of users, those of the training split first, and the lists of both splits."""
    users = itertools.count(1)
    for split, trials in enumerate(TRIALS):
        scene = Scene(dataset, split)
        names = [f"user{next(users):02}_natural" for _ in range(0, scene.count, CLIPS)]
        for number, name in enumerate(names):
            _write_user(folder / name, scene, range(number * CLIPS, min((number + 1) * CLIPS, scene.count)))
        files.write_text(folder / trials, "".join(f"{name}.aedat\n" for name in names))


def _write_user(stem: Path, scene: Scene, indices: range) -> None:
    """Write clips one after another as `<stem>.aedat`, and `<stem>_labels.csv`, which counts classes from 1."""
    starts = [GAP + place * (DURATION + GAP) for place in range(len(indices))]
    recordings = [scene.recording(index) for index in indices]
    shifted = [recording._replace(t=recording.t + start) for recording, start in zip(recordings, starts)]
    aedat3.write(stem.with_suffix(".aedat"), Recording(*map(np.concatenate, zip(*shifted))))
    clips = [aedat3.Clip(scene.label(index) + 1, start, start + DURATION + 1) for index, start in zip(indices, starts)]
    aedat3.write_labels(stem.with_name(f"{stem.name}_labels.csv"), clips)
