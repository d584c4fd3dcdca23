"""Integrate event recordings to T frames each, and store these as arrays that training maps into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bkdsnn.config import Dataset, Events, Strict
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, parsed
from bkdsnn.core.progress import log
from bkdsnn.data.events import formats
from bkdsnn.data.events.layouts import Item
from bkdsnn.data.events.recording import Recording, damaged
from bkdsnn.data.events.survey import Inventory
from bkdsnn.data.manifest import Manifest

COUNT = np.dtype("<u2")  # number of events at one pixel, of one polarity, in one frame


def integrate(recording: Recording, timesteps: int, events: Events, side: int) -> np.ndarray:
    """Count the N > 0 events of a recording per time slice, polarity and pixel: uint16 (T, 2, side, side).

    Events must ascend in time. Channel 0 counts OFF events, channel 1 ON events. With `slices: count`, each of the T
    slices has N // T events, and the last also the remainder, as in spikingjelly; if N < T, only the last has events.
    With `slices: time`, each slice lasts (t[-1] - t[0]) // T microseconds, and the last until the end; a slice without
    events is a frame of zeros. Raises UserError if a pixel has more than 65,535 events in one frame.
    """
    edges = _edges(recording.t, timesteps, events.slices)
    rows, columns = (_addresses(length, max(events.sensor), side) for length in events.sensor)
    place = rows[recording.y] * side + columns[recording.x]
    place += recording.p * np.int64(side * side)
    place += np.repeat(np.arange(timesteps) * (2 * side * side), np.diff(edges))
    counts = np.bincount(place, minlength=timesteps * 2 * side * side)
    if (most := counts.max()) > (limit := np.iinfo(COUNT).max):
        raise UserError(f"a pixel has {most:,} events in one of {timesteps} frames, at most {limit:,} can be counted")
    return counts.astype(COUNT).reshape(timesteps, 2, side, side)


def _edges(t: np.ndarray, timesteps: int, slices: str) -> np.ndarray:
    """Return the index of each time slice's first event, and at the end the number of events: (T + 1,)."""
    parts = np.arange(timesteps)
    if slices == "count":
        begin = parts * (len(t) // timesteps)
    else:
        begin = np.searchsorted(t, t[0] + parts * ((t[-1] - t[0]) // timesteps))
    return np.append(begin, len(t))


def _addresses(length: int, longest: int, side: int) -> np.ndarray:
    """Map each row (or column) of the sensor to one of the frame, (length,): scaled down if too large, centred."""
    scaled = np.arange(length) * side // longest if longest > side else np.arange(length)
    return scaled + (side - 1 - scaled[-1]) // 2


class Clips(NamedTuple):
    """Frames of a dataset, uint16 (N, T, 2, S, S), mapped into memory and not writable; labels int64 (N,)."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class FrameSettings(Strict):
    """All settings that determine the frames; `source` is the digest of the recordings, `side` is in pixels."""

    source: str
    versions: dict[str, int]
    timesteps: int
    side: int
    events: Events

    @classmethod
    def of(cls, dataset: Dataset, source: Manifest, timesteps: int) -> FrameSettings:
        """Return the settings for integrating each recording of a manifest to `timesteps` frames."""
        assert dataset.events  # held by the validator of `Dataset`
        return cls(
            source=source.digest,
            versions=dataset.raised(),
            timesteps=timesteps,
            side=dataset.image_size,
            events=dataset.events,
        )


class FramesRecord(Strict):
    """The JSON file that describes the arrays of frames beside it."""

    settings: FrameSettings
    train_labels: tuple[int, ...]
    test_labels: tuple[int, ...]

    @classmethod
    def read(cls, path: Path, settings: FrameSettings) -> FramesRecord:
        """Read the record at `path`; UserError if absent, damaged or made with other settings (names the first)."""
        if not path.is_file():
            raise UserError(
                f"the record of frames {path} is missing; run the workflow, which makes it first, "
                f"or `python -m bkdsnn frames` with --timesteps {settings.timesteps}"
            )
        record = parsed(cls, path.read_bytes(), f"record of frames {path}", f"; {_AGAIN}")
        for key, wanted in settings:
            if (found := getattr(record.settings, key)) != wanted:
                raise UserError(f"{path}: '{key}' is {found!r}, but this run needs {wanted!r}; {_AGAIN}")
        return record


def convert(dataset: Dataset, manifest: Path, timesteps: int) -> None:
    """Integrate all recordings that `manifest` lists to T frames each, or reuse frames made with the same settings.

    Writes `<dataset>-t<T>-train.npy` and `-test.npy` beside the manifest, uint16 (N, T, 2, S, S), then
    `<dataset>-t<T>.json`. Raises UserError if recordings cannot be read or have changed since the manifest was written;
    in that case no new files remain.
    """
    source, path = Manifest.read(manifest, dataset), _record(dataset, manifest, timesteps)
    settings = FrameSettings.of(dataset, source, timesteps)
    if _stands(path, settings):
        log.info("%s: already made", path)
        return
    inventory = Inventory(
        dataset, Path(source.root or manifest.parent / dataset.name), f"integrated to {timesteps} frames"
    )
    with files.replacing(_array(path, "train")) as train:
        _write(train, inventory, "train", settings)
        with files.replacing(_array(path, "test")) as test:
            _write(test, inventory, "test", settings)
            inventory.check(source.files)
            if not _stands(path, settings):  # it is valid if another process has just made the same frames
                path.unlink(missing_ok=True)  # a record must never describe other arrays than those beside it
    labels = {split: tuple(item.label for item in items) for split, items in inventory.splits.items()}
    record = FramesRecord(settings=settings, train_labels=labels["train"], test_labels=labels["test"])
    files.write_text(path, record.model_dump_json() + "\n")
    log.info("%s: %d frames of each of %s recordings", path, timesteps, f"{source.train + source.test:,}")


def load(dataset: Dataset, manifest: Path, timesteps: int) -> Clips:
    """Map the frames of a dataset into memory; UserError if absent, damaged, or made from other data or settings."""
    settings = FrameSettings.of(dataset, Manifest.read(manifest, dataset), timesteps)
    return _open(_record(dataset, manifest, timesteps), settings)


def _open(path: Path, settings: FrameSettings) -> Clips:
    record = FramesRecord.read(path, settings)
    train, test = (np.array(labels, dtype=np.int64) for labels in (record.train_labels, record.test_labels))
    return Clips(
        _mapped(_array(path, "train"), _shape(settings, len(train))),
        train,
        _mapped(_array(path, "test"), _shape(settings, len(test))),
        test,
    )


def _record(dataset: Dataset, manifest: Path, timesteps: int) -> Path:
    return manifest.with_name(f"{dataset.name}-t{timesteps}.json")


def _array(record: Path, split: str) -> Path:
    return record.with_name(f"{record.stem}-{split}.npy")


def _shape(settings: FrameSettings, count: int) -> tuple[int, ...]:
    return count, settings.timesteps, 2, settings.side, settings.side


def _stands(path: Path, settings: FrameSettings) -> bool:
    """Return whether the record at `path` and its arrays are complete and match `settings`."""
    with contextlib.suppress(UserError):
        _open(path, settings)
        return True
    return False


def _write(path: Path, inventory: Inventory, split: str, settings: FrameSettings) -> None:
    """Write the frames of a split one after another; on a full disk writing to a mapped file would kill the process."""
    shape = _shape(settings, len(inventory.splits[split]))
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": COUNT.str, "fortran_order": False, "shape": shape})
        for file, clips in inventory.visit(split):
            for frames in _integrated(file, clips, settings):
                stream.write(frames.tobytes())


def _integrated(file: Path, clips: Iterable[Item], settings: FrameSettings) -> Iterator[np.ndarray]:
    """Read a file once and yield the frames of its clips, (T, 2, S, S) each; every UserError names the file."""
    recording = formats.read(file, settings.events)
    for clip in clips:
        events = _cut(file, recording, clip)
        try:
            yield integrate(events, settings.timesteps, settings.events, settings.side)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error


def _cut(file: Path, recording: Recording, clip: Item) -> Recording:
    if clip.start is None or clip.end is None:
        return recording
    events = recording.between(clip.start, clip.end)
    if not len(events.t):
        raise damaged(file, f"no events from {clip.start:,} to {clip.end:,} microseconds, where its labels have a clip")
    return events


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be mapped ({error}); {_AGAIN}") from error
    if array.dtype != COUNT or array.shape != shape:
        raise UserError(f"{path}: found {array.dtype} of shape {array.shape}, expected {COUNT} of {shape}; {_AGAIN}")
    return array


_AGAIN = "delete the record of frames and run the workflow again"
