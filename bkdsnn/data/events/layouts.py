"""List the recordings of a published set, with their classes, for the training and the test split."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bkdsnn.config import Dataset
from bkdsnn.data.events import aedat3
from bkdsnn.data.events.published_sets import SPLITS, SUFFIX, TRIALS
from bkdsnn.data.layout import misfit

HELD_OUT = 10  # if a set is published without a split, one in ten recordings of each class is for test


class Item(NamedTuple):
    """One labelled recording, or one clip of a longer recording; `path` is below the dataset's folder, `label` from 0.

    A clip (DVS128 Gesture) has the events with start <= t < end, in microseconds.
    """

    path: str
    label: int
    start: int | None = None
    end: int | None = None


def items(dataset: Dataset, folder: Path) -> tuple[list[Item], list[Item]]:
    """Return the training and the test recordings of the set that lies in `folder`.

    Classes and recordings are sorted by name as text (10 before 2); clips are in listed order. If the set has no split,
    the last tenth of every class in that order, rounded down, is for test (D-101, D-102; as in the SEW-ResNet and
    Spikformer code); an embedded set has as many test recordings as its spec says. Raises UserError if files or folders
    are missing or empty, or if the number of classes is wrong.
    """
    assert dataset.events  # held by the validator of `Dataset`
    if dataset.events.layout == "dvs128-gesture":
        return _clips(dataset, folder, TRIALS[0]), _clips(dataset, folder, TRIALS[1])
    if (splits := SPLITS.get(dataset.events.layout)) is None:
        return _divided(dataset, _listing(dataset, folder))
    train, test = (_listing(dataset, folder, split) for split in splits)
    if different := set(train) ^ set(test):
        raise misfit(dataset, f"class '{min(different)}' lies in only one of {folder}/{{{','.join(splits)}}}")
    return list(chain(*train.values())), list(chain(*test.values()))


def balanced(count: int, classes: int) -> list[int]:
    """Divide `count` recordings among the classes; numbers differ by one at most, and the first classes have more."""
    return [(count + classes - 1 - label) // classes for label in range(classes)]


def _listing(dataset: Dataset, folder: Path, split: str = ".") -> dict[str, list[Item]]:
    """Return the recordings of every class of a split; labels follow the sorted names of the classes."""
    place = folder / split
    if not place.is_dir():
        raise misfit(dataset, f"the folder {place} is missing")
    names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
    if len(names) != dataset.classes:
        raise misfit(dataset, f"{place} has {len(names)} class folders, not {dataset.classes}")
    return {name: _recordings(dataset, folder, Path(split, name), label) for label, name in enumerate(names)}


def _recordings(dataset: Dataset, folder: Path, place: Path, label: int) -> list[Item]:
    assert dataset.events
    suffix = SUFFIX[dataset.events.layout]
    names = [entry.name for entry in os.scandir(folder / place) if entry.name.endswith(suffix)]
    if not names:
        raise misfit(dataset, f"the class folder {folder / place} has no {suffix} file")
    return [Item(str(place / name), label) for name in sorted(names)]


def _divided(dataset: Dataset, classes: dict[str, list[Item]]) -> tuple[list[Item], list[Item]]:
    """Split each class into training and test recordings, the test recordings being the last ones."""
    train: list[Item] = []
    test: list[Item] = []
    for name, recordings in classes.items():
        if not 0 < (held := _held_out(dataset, recordings)) < len(recordings):
            raise misfit(dataset, f"class '{name}' has {len(recordings)} recordings, too few to keep some for test")
        train += recordings[:-held]
        test += recordings[-held:]
    return train, test


def _held_out(dataset: Dataset, recordings: list[Item]) -> int:
    assert dataset.events
    if dataset.events.simulated:
        return balanced(dataset.events.simulated.test, dataset.classes)[recordings[0].label]
    return len(recordings) // HELD_OUT


def _clips(dataset: Dataset, folder: Path, trials: str) -> list[Item]:
    """Return the clips of all recordings that the text file `trials` lists; together they must show every class."""
    names = [line.strip() for line in _lines(dataset, folder / trials) if line.strip()]
    clips = [clip for name in names for clip in _clips_of(dataset, folder, folder / trials, name)]
    if len(found := {clip.label for clip in clips}) != dataset.classes:
        raise misfit(dataset, f"{folder / trials} lists clips of {len(found)} classes, not {dataset.classes}")
    return clips


def _lines(dataset: Dataset, path: Path) -> list[str]:
    if not path.is_file():
        raise misfit(dataset, f"the file {path} is missing")
    return path.read_text(errors="replace").splitlines()


def _clips_of(dataset: Dataset, folder: Path, trials: Path, name: str) -> list[Item]:
    """Return the clips of one recording; the csv counts classes from 1."""
    table = f"{Path(name).stem}_labels.csv"
    for needed in (name, table):
        if not (folder / needed).is_file():
            raise misfit(dataset, f"the file {folder / needed} is missing, which {trials} calls for")
    clips = aedat3.read_labels(folder / table)
    if (highest := max(clip.label for clip in clips)) > dataset.classes:
        raise misfit(dataset, f"{folder / table} has a clip of class {highest}, classes are 1 to {dataset.classes}")
    return [Item(name, clip.label - 1, clip.start, clip.end) for clip in clips]
