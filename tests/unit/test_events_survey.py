"""Preparing recordings of events: the manifest, its digest, and what may go wrong."""

import json
import shutil

import pytest
from recordings_example import GESTURE, NMNIST, TEST, TINY, TRAIN, gestures, prepared, state

from bkdsnn.config import Simulated
from bkdsnn.core.errors import UserError
from bkdsnn.data import prepare
from bkdsnn.data.events import aedat3, frames
from bkdsnn.data.layout import check_counts, real_folder


@pytest.fixture
def manifest(tmp_path):
    return prepared(tmp_path)


def test_the_manifest_counts_recordings_and_has_a_record_for_every_folder(manifest):
    content, folder = json.loads(manifest.read_text()), manifest.parents[1] / "set"
    assert (content["train"], content["test"], content["root"]) == (2 * TRAIN, 2 * TEST, str(folder))
    expected = {f"{split}/{label}" for split in ("Train", "Test") for label in "01"}
    assert {file["path"] for file in content["files"]} == expected
    for file in content["files"]:
        assert file["bytes"] == sum(path.stat().st_size for path in (folder / file["path"]).iterdir())


def test_the_same_recordings_give_the_same_digest_wherever_they_lie(manifest):
    (manifest.parents[1] / "set").rename(manifest.parents[1] / "moved")
    prepare(TINY.model_copy(update={"folder": "moved"}), manifest.parents[1], manifest.with_name("again.json"))
    digests = [json.loads(path.read_text())["digest"] for path in sorted(manifest.parent.iterdir())]
    assert len(digests) == 2 and digests[0] == digests[1]


def test_absent_recordings_make_one_message_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as caught:
        real_folder(TINY, tmp_path)
    for part in (f"{tmp_path}/set is missing", "set/{Train,Test}/<class>/*.bin with 2 classes", "data.root"):
        assert part in str(caught.value)


def test_a_part_of_a_published_set_needs_a_name_of_its_own():
    whole = TINY.model_copy(update={"name": "n-mnist"})
    check_counts(whole, 60_000, 10_000)
    with pytest.raises(UserError, match="found 1,000 training and 100 test recordings, the published dataset has 60"):
        check_counts(whole, 1_000, 100)


def moving(train):
    """`TINY` with embedded recordings of ten digits."""
    simulated = NMNIST.model_copy(update={"simulated": Simulated(train=train, test=10)})
    return TINY.model_copy(update={"classes": 10, "events": simulated})


def test_embedded_recordings_lie_beside_their_manifest_and_are_made_again_only_if_they_differ(tmp_path):
    manifest = tmp_path / "tiny.json"
    prepare(moving(20), None, manifest)
    described, made = manifest.read_bytes(), state(tmp_path / "tiny")
    frames.convert(moving(20), manifest, 2)
    prepare(moving(20), None, manifest)
    assert state(tmp_path / "tiny") == made
    assert len(frames.load(moving(20), manifest, 2).train) == 20
    changed, content = min(made), min(made).read_bytes()
    changed.write_bytes(content[:-5])
    prepare(moving(20), None, manifest)
    assert changed.read_bytes() == content and manifest.read_bytes() == described
    prepare(moving(10), None, manifest)
    assert json.loads(manifest.read_text())["train"] == len(list((tmp_path / "tiny").glob("Train/*/*"))) == 10


@pytest.mark.parametrize("change", ["label", "clip", "split"])
def test_the_digest_follows_labels_clips_and_splits(tmp_path, change):
    manifest = gestures(tmp_path)
    for suffix in (".aedat", "_labels.csv"):
        shutil.copy(tmp_path / "g" / f"one{suffix}", tmp_path / "g" / f"three{suffix}")
    (tmp_path / "g" / "trials_to_train.txt").write_text("one.aedat\nthree.aedat\n")
    prepare(GESTURE, tmp_path, manifest)
    before = json.loads(manifest.read_text())["digest"]
    labels = (1, 2) if change == "label" else (2, 1)
    ends = (40_001 if change == "clip" else 40_000, 100_000)
    clips = [aedat3.Clip(*clip) for clip in zip(labels, (10_000, 50_000), ends)]
    aedat3.write_labels(tmp_path / "g" / "one_labels.csv", clips)
    if change == "split":
        (tmp_path / "g" / "trials_to_train.txt").write_text("one.aedat\n")
        (tmp_path / "g" / "trials_to_test.txt").write_text("three.aedat\ntwo.aedat\n")
    prepare(GESTURE, tmp_path, manifest)
    assert json.loads(manifest.read_text())["digest"] != before
