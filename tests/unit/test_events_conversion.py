"""Frames from events: converting all recordings of a dataset, and what may go wrong."""

import json
import logging
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from recordings_example import GESTURE, NMNIST, TEST, TINY, TRAIN, alter, gestures, prepared, recording, state

from bkdsnn.config import Dataset
from bkdsnn.core import files, progress
from bkdsnn.core.errors import UserError
from bkdsnn.data import prepare
from bkdsnn.data.events import aedat3, formats, frames, layouts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manifest(tmp_path):
    return prepared(tmp_path)


def names(manifest):
    return sorted(path.name for path in manifest.parent.iterdir())


MADE = ["tiny-t4-test.npy", "tiny-t4-train.npy", "tiny-t4.json"]


def test_converted_frames_are_those_of_the_recordings_with_their_labels(manifest):
    frames.convert(TINY, manifest, 4)
    assert names(manifest) == [*MADE, "tiny.json"]
    clips, folder = frames.load(TINY, manifest, 4), manifest.parents[1] / "set"
    for array, labels, items in zip(clips[::2], clips[1::2], layouts.items(TINY, folder), strict=True):
        assert isinstance(array, np.memmap) and not array.flags.writeable and labels.dtype == np.int64
        expected = [frames.integrate(formats.read(folder / item.path, NMNIST), 4, NMNIST, 36) for item in items]
        assert array.dtype == np.uint16 and np.array_equal(array, expected)
        assert labels.tolist() == [item.label for item in items]


def test_frames_of_other_numbers_lie_side_by_side(manifest):
    for timesteps in (4, 16):
        frames.convert(TINY, manifest, timesteps)
    assert [frames.load(TINY, manifest, timesteps).train.shape[1] for timesteps in (4, 16)] == [4, 16]


def test_what_is_made_already_is_not_made_again(manifest, caplog):
    caplog.set_level(logging.INFO, "bkdsnn")
    frames.convert(TINY, manifest, 4)
    before = state(manifest.parent)
    frames.convert(TINY, manifest, 4)
    assert state(manifest.parent) == before
    record = manifest.with_name("tiny-t4.json")
    assert caplog.messages == [f"{record}: 4 frames of each of 10 recordings", f"{record}: already made"]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("damage", ["cut", "remove", "foreign"])
def test_what_is_damaged_is_refused_and_made_again(manifest, name, damage):
    frames.convert(TINY, manifest, 4)
    path = manifest.with_name(name)
    content = path.read_bytes()
    path.write_bytes(content[:-100] if damage == "cut" else b"\x80\x04N.")  # a pickle of None
    if damage == "remove":
        path.unlink()
    with pytest.raises(UserError, match=path.name):
        frames.load(TINY, manifest, 4)
    frames.convert(TINY, manifest, 4)
    assert path.read_bytes() == content and frames.load(TINY, manifest, 4)


def test_arrays_of_another_type_or_shape_are_refused(manifest):
    frames.convert(TINY, manifest, 4)
    path = manifest.with_name("tiny-t4-test.npy")
    array = np.load(path)
    for other in (array.astype(np.float32), array[:-1]):
        np.save(path, other)
        with pytest.raises(UserError, match=r"test.npy: found \w+ of shape \(\d, 4, 2, 36, 36\), expected uint16 of"):
            frames.load(TINY, manifest, 4)


def changed_spec(manifest, dataset):
    """Write the manifest that an unchanged set has under another spec."""
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "dataset": dataset.model_dump(mode="json")}))
    return dataset


@pytest.mark.parametrize(
    ("change", "key"),
    [({"image_size": 40}, "side"), ({"events": NMNIST.model_copy(update={"slices": "time"})}, "events")],
)
def test_frames_made_by_other_settings_are_refused_and_made_again(manifest, change, key):
    frames.convert(TINY, manifest, 4)
    other = changed_spec(manifest, TINY.model_copy(update=change))
    with pytest.raises(UserError, match=rf"tiny-t4.json: '{key}' is .*, but this run needs"):
        frames.load(other, manifest, 4)
    frames.convert(other, manifest, 4)
    assert frames.load(other, manifest, 4).train.shape[-1] == other.image_size


def test_frames_of_an_older_data_version_are_refused(manifest, monkeypatch):
    frames.convert(TINY, manifest, 4)
    monkeypatch.setattr(Dataset, "version", 999)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "versions": TINY.raised()}))
    with pytest.raises(UserError, match=r"'versions' is {}, but this run needs {'Dataset.version': 999}"):
        frames.load(TINY, manifest, 4)


def test_frames_that_are_copies_of_another_number_are_refused(manifest):
    frames.convert(TINY, manifest, 4)
    for name in MADE:
        manifest.with_name(name.replace("t4", "t8")).write_bytes(manifest.with_name(name).read_bytes())
    with pytest.raises(UserError, match="'timesteps' is 4, but this run needs 8"):
        frames.load(TINY, manifest, 8)


@pytest.mark.parametrize("change", ["a byte", "cut", "added", "removed", "renamed"])
def test_recordings_that_changed_since_the_manifest_was_written_are_noticed(manifest, change):
    folder = manifest.parents[1] / "set"
    alter(folder, change)
    with pytest.raises(UserError, match=rf"^{folder}/Train/1: recordings.*have changed since the data of 'tiny' were"):
        frames.convert(TINY, manifest, 4)
    assert names(manifest) == ["tiny.json"]
    prepare(TINY, manifest.parents[1], manifest)
    frames.convert(TINY, manifest, 4)
    assert len(frames.load(TINY, manifest, 4).train) == 2 * TRAIN + {"added": 1, "removed": -1}.get(change, 0)


def test_frames_of_data_that_were_prepared_anew_are_made_anew(manifest):
    frames.convert(TINY, manifest, 4)
    old = frames.load(TINY, manifest, 4)
    alter(manifest.parents[1] / "set", "a byte")
    prepare(TINY, manifest.parents[1], manifest)
    with pytest.raises(UserError, match="'source' is"):
        frames.load(TINY, manifest, 4)
    frames.convert(TINY, manifest, 4)
    differs = (frames.load(TINY, manifest, 4).train != old.train).any(axis=(1, 2, 3, 4))
    assert differs.tolist() == [False] * TRAIN + [True] + [False] * (TRAIN - 1)


@pytest.mark.parametrize("problem", ["empty", "overflow"])
def test_a_recording_that_cannot_be_integrated_is_named_and_nothing_is_left(manifest, problem):
    path = manifest.parents[1] / "set" / "Test" / "1" / "1.bin"
    path.write_bytes(b"" if problem == "empty" else bytes(5 * 70_000))
    prepare(TINY, manifest.parents[1], manifest)
    with pytest.raises(UserError, match=rf"^{path}: (holds no events|a pixel has 70,000 events in one of 1 frames)"):
        frames.convert(TINY, manifest, 1)
    assert names(manifest) == ["tiny.json"]


def test_missing_frames_are_told(manifest):
    message = r"the record of frames .*tiny-t4.json is missing; run the workflow.* frames` with --timesteps 4"
    with pytest.raises(UserError, match=message):
        frames.load(TINY, manifest, 4)


def process(manifest, first=""):
    """Start another process that converts the same data."""
    script = f"""
{first}
from pathlib import Path
from bkdsnn.data.events import frames
from bkdsnn.config import Dataset
frames.convert(Dataset(**{TINY.model_dump()!r}), Path({str(manifest)!r}), 4)
"""
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Wait for a process; return its exit status and what it said on standard error."""
    said = process.communicate()[1]
    return process.returncode, said


class Meanwhile(logging.Handler):
    """Runs a second conversion from start to end, once, when the first reports its progress."""

    def __init__(self, manifest):
        super().__init__()
        self.manifest, self.ends = manifest, []

    def emit(self, record):
        if not self.ends:
            self.ends.append(ended(process(self.manifest)))


def test_a_process_that_converts_while_another_does_disturbs_nothing(manifest, monkeypatch, caplog):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    caplog.set_level(logging.INFO, "bkdsnn")
    meanwhile = Meanwhile(manifest)
    progress.log.addHandler(meanwhile)
    frames.convert(TINY, manifest, 4)
    progress.log.removeHandler(meanwhile)
    assert meanwhile.ends == [(0, "")] and names(manifest) == [*MADE, "tiny.json"]
    folder, clips = manifest.parents[1] / "set" / "Train", frames.load(TINY, manifest, 4)
    assert clips.train.sum() == sum(path.stat().st_size // 5 for path in folder.rglob("*.bin"))


def test_processes_that_convert_at_once_leave_one_whole_result(manifest):
    running = [process(manifest) for _ in range(2)]
    assert [ended(one) for one in running] == [(0, "")] * 2
    assert names(manifest) == [*MADE, "tiny.json"] and len(frames.load(TINY, manifest, 4).test) == 2 * TEST


def test_a_disk_that_is_full_is_told_and_nothing_is_left(manifest):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    code, said = ended(process(manifest, limit))
    assert code == 1 and f"UserError: cannot write {manifest.with_name('tiny-t4-train.npy')}: File too large" in said
    assert names(manifest) == ["tiny.json"]


def test_a_record_never_stands_beside_arrays_of_other_recordings(manifest, monkeypatch):
    """A conversion ends after its arrays were written, before its record; then the old recordings come back."""
    frames.convert(TINY, manifest, 4)
    path = manifest.parents[1] / "set" / "Train" / "1" / "0.bin"
    described, old = manifest.read_bytes(), path.read_bytes()
    alter(manifest.parents[1] / "set", "a byte")
    prepare(TINY, manifest.parents[1], manifest)
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(files, "write_text", mock.Mock(side_effect=KeyboardInterrupt))
        frames.convert(TINY, manifest, 4)
    path.write_bytes(old)
    manifest.write_bytes(described)
    with pytest.raises(UserError, match=r"tiny-t4.json is missing"):
        frames.load(TINY, manifest, 4)


def test_progress_is_told_with_the_number_done_and_the_time_left(manifest, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "bkdsnn")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    frames.convert(TINY, manifest, 4)
    told = [line.split(", ") for line in caplog.messages[:-1]]
    assert [line[0] for line in told] == [f"tiny: {n}/10 recordings integrated to 4 frames" for n in range(1, 11)]
    assert all(line[1].endswith(" s left") for line in told)


# ---- Clips of longer recordings --------------------------------------------------------------------------------------


def test_clips_are_cut_out_of_one_reading_of_their_recording(tmp_path, monkeypatch):
    manifest = gestures(tmp_path)
    prepare(GESTURE, tmp_path, manifest)
    read, opened = formats.read, []
    monkeypatch.setattr(formats, "read", lambda path, events: opened.append(path.name) or read(path, events))
    frames.convert(GESTURE, manifest, 3)
    assert opened == ["one.aedat", "two.aedat"]
    clips, whole = frames.load(GESTURE, manifest, 3), recording(3000, (16, 16), seed=5, duration=100_000)
    assert clips.train_labels.tolist() == clips.test_labels.tolist() == [1, 0]
    cuts = [whole.between(10_000, 40_000), whole.between(50_000, 100_000)]
    assert np.array_equal(clips.train, [frames.integrate(cut, 3, GESTURE.events, 16) for cut in cuts])


def test_progress_counts_clips(tmp_path, monkeypatch, caplog):
    manifest = gestures(tmp_path)
    prepare(GESTURE, tmp_path, manifest)
    caplog.set_level(logging.INFO, "bkdsnn")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    frames.convert(GESTURE, manifest, 3)
    assert [line.split()[1] for line in caplog.messages[:-1]] == ["2/4", "4/4"]


def test_a_clip_without_events_is_named(tmp_path):
    manifest = gestures(tmp_path)
    labels = [aedat3.Clip(2, 10_000, 40_000), aedat3.Clip(1, 200_000, 300_000)]
    aedat3.write_labels(tmp_path / "g" / "one_labels.csv", labels)
    prepare(GESTURE, tmp_path, manifest)
    with pytest.raises(UserError, match=r"one.aedat: no events from 200,000 to 300,000 microseconds"):
        frames.convert(GESTURE, manifest, 3)


HEAVY = ("torch", "spikingjelly", "pandas", "sklearn")


@pytest.mark.parametrize(("module", "absent"), [("events", ("numpy", *HEAVY)), ("events.frames", HEAVY)])
def test_importing_frames_loads_no_heavy_library(module, absent):
    probe = f"import sys, bkdsnn.data.{module}; print([name for name in {absent!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_real_recordings_become_frames_that_hold_all_their_events(samples, tmp_path):
    with tarfile.open(samples("events/nmnist/nmnist-1100.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    real = Dataset(name="real", format="events", classes=10, image_size=48, folder="nmnist", events=NMNIST)
    prepare(real, tmp_path, tmp_path / "m.json")
    frames.convert(real, tmp_path / "m.json", 4)
    clips = frames.load(real, tmp_path / "m.json", 4)
    assert (clips.train.shape, clips.test.shape) == ((1000, 4, 2, 48, 48), (100, 4, 2, 48, 48))
    for array, labels, split in ((clips.train, clips.train_labels, "Train"), (clips.test, clips.test_labels, "Test")):
        paths = sorted((tmp_path / "nmnist" / split).glob("*/*.bin"))
        assert array.sum(axis=(1, 2, 3, 4)).tolist() == [path.stat().st_size // 5 for path in paths]
        assert labels.tolist() == [int(path.parent.name) for path in paths]
