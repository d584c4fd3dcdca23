"""Readers of native event files beside spikingjelly's, and on all real sample data."""

import struct
import tarfile

import numpy as np
import pytest

from bkdsnn.config import Events
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import aedat2, aedat3, bin5, formats
from bkdsnn.data.events.recording import Recording

GESTURES = "events/dvs128gesture"


def _events(layout: str, height: int = 128, width: int = 128) -> Events:
    return Events.model_validate({"layout": layout, "sensor": (height, width)})


def _rows(recording: Recording) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in recording)))


def _assert_equal(found: Recording, expected: Recording) -> None:
    assert [column.dtype for column in found] == [np.int64, np.uint16, np.uint16, np.uint8]
    for name, one, other in zip(Recording._fields, found, expected):
        assert np.array_equal(one, other), name


@pytest.fixture(scope="module")
def gestures(samples, tmp_path_factory):
    """The folder of the re-encoded AEDAT 3.1 recording and its csv."""
    return _unpacked(samples(f"{GESTURES}/dvsgesture-aedat31-reencoded.tar.xz"), tmp_path_factory) / (
        "DvsGesture-reencoded"
    )


def _unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def theirs():
    """spikingjelly's readers: of AEDAT 2, AEDAT 3.1 and 5-byte events."""
    from spikingjelly.datasets import cifar10_dvs, utils

    return cifar10_dvs._load_origin_data, utils.load_aedat_v3, utils.load_ATIS_bin


def test_aedat2_agrees_with_spikingjelly_on_every_address(tmp_path, theirs):
    words = np.stack([np.arange(2**16), np.sort(np.random.default_rng(0).integers(2**32, size=2**16))], 1)
    (path := tmp_path / "a.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + words.astype(">u4").tobytes())
    _assert_equal(aedat2.read(path), Recording(**theirs[0](path)))


def test_aedat2_skips_the_header_that_jaer_wrote(samples, tmp_path):
    header = samples("events/aedat2_header/sample_aedat_header.aedat")
    with pytest.raises(UserError, match=f"{header}: holds no events"):
        formats.read(header, _events("cifar10-dvs"))
    (path := tmp_path / "a.aedat").write_bytes(header.read_bytes() + struct.pack(">IIII", 0x2322, 35, 0, 36))
    assert _rows(aedat2.read(path)) == [(35, 127 - 0x23, 127 - 0x11, 1), (36, 127, 127, 1)]


def test_all_clips_cut_from_the_aedat3_recording_are_the_original_clips(samples, gestures):
    recording = formats.read(gestures / "user01_clips.aedat", _events("dvs128-gesture"))
    clips = aedat3.read_labels(gestures / "user01_clips_labels.csv")
    assert len(recording.t) == 1_206_710 and [clip.label for clip in clips] == list(range(1, 11))
    counts = [line.split(",")[3] for line in samples(f"{GESTURES}/clips.csv").read_text().splitlines()[1:]]
    for clip, count in zip(clips, counts, strict=True):
        original = bin5.read(samples(f"{GESTURES}/clips_bs2/{clip.label:02}.bs2"))
        assert len(original.t) == int(count)
        cut = recording.between(clip.start, clip.end)
        _assert_equal(cut._replace(t=cut.t - clip.start), original)


def test_aedat3_agrees_with_spikingjelly_on_a_real_recording(gestures, tmp_path, theirs):
    whole = (gestures / "user01_clips.aedat").read_bytes()
    start = whole.index(b"#!END-HEADER\r\n") + 14
    (path := tmp_path / "part.aedat").write_bytes(whole[: start + 20 * (28 + 8 * 4096)])
    found = aedat3.read(path)
    assert len(found.t) == 20 * 4096
    _assert_equal(found, Recording(**theirs[1](path)))


def test_an_original_csv_is_read(samples):
    clips = aedat3.read_labels(samples(f"{GESTURES}/user01_natural_labels.csv"))
    assert [clip.label for clip in clips] == [1, 2, 3, 5, 4, 6, 7, 8, 8, 9, 10, 11]
    assert clips[0] == (1, 53036986, 59508469) and clips[-1] == (11, 171367247, 177991967)


def test_all_of_the_real_nmnist_is_read_as_spikingjelly_does(samples, tmp_path_factory, theirs):
    folder = _unpacked(samples("events/nmnist/nmnist-1100.tar.xz"), tmp_path_factory) / "nmnist"
    paths = sorted(folder.glob("*/*/*.bin"))
    assert len(paths) == 1100
    counts = []
    for path in paths:
        recording = formats.read(path, _events("n-mnist", 34, 34))
        _assert_equal(recording, Recording(**theirs[2](path)))
        counts.append(len(recording.t))
    assert (min(counts), max(counts), sum(counts)) == (1_069, 7_152, 4_518_827)


def test_the_real_ncaltech101_is_read_as_spikingjelly_does(samples, theirs):
    path = samples("events/ncaltech101/Caltech101/Faces_easy/image_0001.bin")
    recording = formats.read(path, _events("n-caltech101", 180, 240))
    assert (len(recording.t), recording.x.max(), recording.y.max(), recording.t[-1]) == (67_445, 150, 172, 299_364)
    _assert_equal(recording, Recording(**theirs[2](path)))


@pytest.mark.parametrize(
    ("name", "count", "last", "width", "height"),
    [("sample_ncars.dat", 2_009, 99_952, 78, 42), ("obj_004397_td.dat", 4_407, 99_937, 54, 61)],
)
def test_the_real_ncars_are_read(samples, name, count, last, width, height):
    path = samples(f"events/ncars/{name}")
    recording = formats.read(path, _events("n-cars", height, width))
    assert (len(recording.t), recording.t[-1]) == (count, last)
    assert (recording.x.max(), recording.y.max(), set(recording.p)) == (width - 1, height - 1, {0, 1})
    words = struct.iter_unpack("<II", path.read_bytes()[-8 * count :])
    assert _rows(recording) == [(t, word % 2**14, word >> 14 & 0x3FFF, word >> 28 & 1) for t, word in words]
