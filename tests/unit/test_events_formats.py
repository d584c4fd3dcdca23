"""Readers and writers of native event files: bytes made by hand, random recordings, damage."""

import importlib
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from bkdsnn.config import Events
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import aedat2, aedat3, bin5, dat2, formats, npy
from bkdsnn.data.events.aedat3 import Clip
from bkdsnn.data.events.published_sets import SUFFIX
from bkdsnn.data.events.recording import Recording

# The largest t, y, x that each format can hold.
LIMITS = {
    "cifar10-dvs": (2**32 - 1, 127, 127),
    "dvs128-gesture": (2**31 - 1, 2**15 - 1, 2**15 - 1),
    "n-caltech101": (2**23 - 1, 239, 255),
    "n-mnist": (2**23 - 1, 239, 255),
    "n-cars": (2**32 - 1, 2**14 - 1, 2**14 - 1),
    "dvs-lip": (2**31 - 1, 127, 127),
}
LAYOUTS = sorted(LIMITS)
AEDAT2 = b"#!AER-DAT2.0\r\n# any line\r\n"
AEDAT3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
DAT2 = b"% Data file containing Event2d events.\n% Version 2\n\x00\x08"


def _events(layout: str, height: int = 128, width: int = 128) -> Events:
    return Events.model_validate({"layout": layout, "sensor": (height, width)})


def _random(layout: str, count: int, seed: int = 0) -> Recording:
    """Random events over all that the format can hold; the last has the largest values."""
    draw = np.random.default_rng(seed).integers
    t, y, x = (draw(limit + 1, size=count) for limit in LIMITS[layout])
    for column, limit in zip((t, y, x), LIMITS[layout]):
        column[count - 1 :] = limit
    return Recording.of(np.sort(t), x, y, draw(2, size=count))


def _rows(recording: Recording) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in recording)))


def _assert_equal(found: Recording, expected: Recording) -> None:
    assert [column.dtype for column in found] == [np.int64, np.uint16, np.uint16, np.uint8]
    for name, one, other in zip(Recording._fields, found, expected):
        assert np.array_equal(one, other), name


def _message(read, path) -> str:
    """What a reader says about a file; one line that names it."""
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def _packet(events: list[tuple[int, int]], overflow: int = 0, kind: int = 1, spare: int = 0) -> bytes:
    number = len(events)
    body = b"".join(struct.pack("<II", *event) for event in events) + bytes(8 * spare)
    return struct.pack("<HHIIIIII", kind, 1, 8, 4, overflow, number + spare, number, number) + body


# --- bytes made by hand ---


def test_aedat2_is_big_endian_turned_and_has_off_as_one(tmp_path):
    (path := tmp_path / "a.aedat").write_bytes(
        AEDAT2 + struct.pack(">II", 100 << 8 | 5 << 1 | 1, 0x01020304) + struct.pack(">II", 1 << 15, 0xFFFFFFFF)
    )
    assert _rows(aedat2.read(path)) == [(0x01020304, 27, 122, 0), (0xFFFFFFFF, 127, 127, 1)]


def test_aedat3_reads_filled_polarity_events_and_continues_time_by_the_overflow(tmp_path):
    first = (300 << 17 | 5 << 2 | 1 << 1 | 1, 7)
    second = (3 << 17 | 0x7FFF << 2 | 0 << 1 | 1, 2**31 - 1)
    special = _packet([(0xFFFFFFFF, 8)], kind=0)
    (path := tmp_path / "a.aedat").write_bytes(
        AEDAT3 + _packet([first], spare=2) + special + _packet([]) + _packet([second], overflow=3)
    )
    assert _rows(aedat3.read(path)) == [(7, 300, 5, 1), (2**31 - 1 + 3 * 2**31, 3, 0x7FFF, 0)]


def test_bin_events_have_five_bytes_with_time_in_the_low_23_bits(tmp_path):
    (path := tmp_path / "a.bin").write_bytes(bytes([1, 2, 0x80 | 0x12, 0x34, 0x56, 255, 239, 0x7F, 0xFF, 0xFF]))
    assert _rows(bin5.read(path)) == [(0x123456, 1, 2, 1), (2**23 - 1, 255, 239, 0)]


def test_a_bin_event_in_row_240_is_dropped_and_adds_8192_us_to_all_later_times(tmp_path):
    events = [
        [1, 2, 0, 0, 9],
        [0, 240, 0, 0, 0],
        [0, 240, 0x80, 0, 0],
        [3, 4, 0x80, 0, 5],
        [0, 240, 0, 0, 0],
        [5, 6, 0, 1, 0],
    ]
    (path := tmp_path / "a.bin").write_bytes(bytes(number for event in events for number in event))
    assert _rows(bin5.read(path)) == [(9, 1, 2, 0), (2 * 8192 + 5, 3, 4, 1), (3 * 8192 + 256, 5, 6, 0)]


def test_dat_events_are_little_endian_time_then_x_y_polarity_from_the_lowest_bit(tmp_path):
    word = 1 << 28 | 0x2001 << 14 | 0x1002
    (path := tmp_path / "a.dat").write_bytes(DAT2 + struct.pack("<IIII", 0x01020304, word, 0xFFFFFFFF, 0xE0000000))
    assert _rows(dat2.read(path)) == [(0x01020304, 0x1002, 0x2001, 1), (0xFFFFFFFF, 0, 0, 0)]


@pytest.mark.parametrize("kinds", ["<i4 i1 i1 i1", "<i8 <i2 <i2 ?", "<u4 >u2 u1 u1"])
def test_npy_takes_fields_by_name_whatever_integers_they_are(tmp_path, kinds):
    kind = list(zip("txyp", kinds.split()))[::-1]
    np.save(path := tmp_path / "a.npy", np.array([(1, 2, 1, 5), (0, 126, 127, 2**31 - 1)], kind))
    assert _rows(npy.read(path)) == [(5, 1, 2, 1), (2**31 - 1, 127, 126, 0)]


# --- writers ---


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [0, 1, 100, 4096, 9000])
def test_random_recordings_round_trip_exactly(tmp_path, layout, count):
    written = _random(layout, count, seed=count)
    path = tmp_path / f"a{SUFFIX[layout]}"
    formats.write(path, written, layout)
    _assert_equal(formats.FORMATS[layout].read(path), written)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_writers_refuse_what_the_format_cannot_hold_and_leave_the_old_file(tmp_path, layout):
    path = tmp_path / "a"
    formats.write(path, recording := _random(layout, 10), layout)
    before = path.read_bytes()
    for name, limit in zip(("t", "y", "x", "p"), (*LIMITS[layout], 1)):
        for value in {limit + 1, -1} if name == "t" else {limit + 1}:
            column = getattr(recording, name).astype(np.int64)
            column[3] = value
            said = _message(lambda path: formats.write(path, recording._replace(**{name: column}), layout), path)  # noqa: B023
            assert f"found {name} from" in said and f"expected 0 to {limit}" in said
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_writers_replace_the_old_file_instead_of_writing_into_it(tmp_path, layout):
    """Whoever has the old file open keeps reading the old recording."""
    formats.write(tmp_path / "a", old := _random(layout, 10), layout)
    os.link(tmp_path / "a", tmp_path / "kept")
    formats.write(tmp_path / "a", new := _random(layout, 20), layout)
    _assert_equal(formats.FORMATS[layout].read(tmp_path / "kept"), old)
    _assert_equal(formats.FORMATS[layout].read(tmp_path / "a"), new)


def test_packets_that_are_written_hold_4096_events_at_most_and_say_so(tmp_path):
    aedat3.write(path := tmp_path / "a.aedat", _random("dvs128-gesture", 5000))
    data = path.read_bytes()
    start = data.index(b"#!END-HEADER\r\n") + 14
    sizes = [struct.unpack_from("<HHIIIIII", data, at) for at in (start, start + 28 + 8 * 4096)]
    assert sizes == [(1, 1, 8, 4, 0, 4096, 4096, 4096), (1, 1, 8, 4, 0, 904, 904, 904)]
    assert struct.unpack_from("<I", data, start + 28)[0] & 1, "events are marked valid"


# --- the csv of DVS128 Gesture ---


def test_labels_round_trip_and_may_overlap(tmp_path):
    clips = [Clip(9, 10, 30), Clip(10, 20, 40), Clip(1, 41, 42)]
    aedat3.write_labels(path := tmp_path / "a_labels.csv", clips)
    assert aedat3.read_labels(path) == clips
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert aedat3.read_labels(path) == clips


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "begins with ''"),
        ("label,start,end\n1,2,3\n", "begins with 'label,start,end', expected the columns 'class,startTime_usec"),
        ("class,startTime_usec,endTime_usec\n", "lists no clips"),
        ("class,startTime_usec,endTime_usec\n1,2,3\n1,2\n", "line 3 is '1,2', expected three whole numbers"),
        ("class,startTime_usec,endTime_usec\n1,2,3,4\n", "line 2 is '1,2,3,4', expected three whole numbers"),
        ("class,startTime_usec,endTime_usec\n1,2,3.5\n", "line 2 is '1,2,3.5', expected three whole numbers"),
        ("class,startTime_usec,endTime_usec\n0,2,3\n", "line 2 is '0,2,3', expected a label from 1"),
        ("class,startTime_usec,endTime_usec\n1,3,3\n", "line 2 is '1,3,3', expected a label from 1 and a start before"),
        ("class,startTime_usec,endTime_usec\n1,-3,3\n", "line 2 is '1,-3,3'"),
    ],
)
def test_a_wrong_csv_is_named_with_its_line(tmp_path, text, expected):
    (path := tmp_path / "a_labels.csv").write_text(text)
    assert expected in _message(aedat3.read_labels, path)


# --- files that are not what they should be ---

ONE = struct.pack("<II", 0, 0)
WRONG = {
    "aedat2 empty": (aedat2.read, b"", "begins with b'', AEDAT 2.0 begins with"),
    "aedat2 of version 3": (aedat2.read, AEDAT3, "begins with b'#!AER-DAT3.1', AEDAT 2.0 begins with"),
    "aedat2 cut": (aedat2.read, AEDAT2 + bytes(15), "truncated: 15 bytes of events are no multiple of 8"),
    "aedat2 of a larger camera": (aedat2.read, AEDAT2 + b"\x00\x01" + bytes(6), "found the address 0x00010000"),
    "aedat3 empty": (aedat3.read, b"", "begins with b'', AEDAT 3.1 begins with"),
    "aedat3 of version 2": (aedat3.read, AEDAT2 + ONE, "begins with b'#!AER-DAT2.0"),
    "aedat3 cut in the lines": (aedat3.read, AEDAT3[:-4], "truncated: the header has no line b'#!END-HEADER"),
    "aedat3 cut in a header": (aedat3.read, AEDAT3 + _packet([]) + bytes(27), "packet at byte 70 has no full header"),
    "aedat3 cut in events": (aedat3.read, AEDAT3 + _packet([(1, 1)])[:-1], "packet at byte 42 needs 8 bytes of events"),
    "aedat3 with events of 9 bytes": (
        aedat3.read,
        AEDAT3 + struct.pack("<HHIIIIII", 1, 1, 9, 4, 0, 1, 1, 1) + bytes(9),
        "contradicts itself: 1 events of 9 bytes in room for 1",
    ),
    "aedat3 overfull": (
        aedat3.read,
        AEDAT3 + struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, 1, 2, 2) + bytes(16),
        "contradicts itself: 2 events of 8 bytes in room for 1",
    ),
    "bin cut": (bin5.read, bytes(9), "truncated: 9 bytes of events are no multiple of 5"),
    "dat empty": (dat2.read, b"", "begins with b'', DAT begins with"),
    "dat without lines": (dat2.read, bytes([0, 8]) + ONE, "begins with b'\\x00\\x08"),
    "dat of another event": (dat2.read, b"% x\n\x0e\x08" + ONE, "size of an event [14, 8], expected [0, 8]"),
    "dat cut after its lines": (dat2.read, b"% x\n\x00", "size of an event [0], expected [0, 8]"),
    "dat of one endless line": (dat2.read, b"% x", "size of an event [], expected [0, 8]"),
    "dat cut": (dat2.read, DAT2 + ONE + b"\x00", "truncated: 9 bytes of events are no multiple of 8"),
    "npy empty": (npy.read, b"", "truncated, or no array"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_cut_or_in_another_format_is_refused(tmp_path, name):
    read, data, expected = WRONG[name]
    (path := tmp_path / "a").write_bytes(data)
    assert expected in _message(read, path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_absent_is_named_with_the_reason(tmp_path, layout):
    read = formats.FORMATS[layout].read
    assert _message(read, tmp_path / "none").startswith(f"cannot read {tmp_path / 'none'}: No such file")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros(3), "found float64 of shape (3,), expected one row of events"),
        (np.zeros((2, 2), npy.KIND), "of shape (2, 2), expected one row of events"),
        (np.zeros(2, [("t", "<f4"), ("x", "i1"), ("y", "i1"), ("p", "i1")]), "whole numbers t, x, y, p"),
        (np.zeros(2, [("t", "<i4"), ("x", "i1"), ("y", "i1")]), "whole numbers t, x, y, p"),
        (np.array([(1, 1, 1, 2)], npy.KIND), "found p from 2 to 2, expected 0 to 1"),
        (np.array([(-1, 1, 1, 1)], npy.KIND), "found t from -1 to -1"),
        (np.array([(1, -5, 1, 1)], npy.KIND), "found x from -5 to -5"),
        (np.array([(1, 1, 65536, 1)], "<i4,<i4,<i4,<i4").astype(list(zip("txyp", ["<i4"] * 4))), "found y from 65536"),
    ],
)
def test_an_npy_of_other_content_is_refused(tmp_path, array, expected):
    np.save(path := tmp_path / "a.npy", array)
    assert expected in _message(npy.read, path)


def test_an_npy_with_a_pickle_and_an_archive_are_refused_unread(tmp_path):
    np.save(path := tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    assert "pickles are refused" in _message(npy.read, path)
    (path := tmp_path / "b.npy").write_bytes(b"\x80\x04N.")
    assert "pickles are refused" in _message(npy.read, path)
    np.savez(tmp_path / "c.npz", t=np.zeros(2))
    assert "no array of numbers" in _message(npy.read, tmp_path / "c.npz")
    np.save(path := tmp_path / "d.npy", np.zeros(50, npy.KIND))
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in _message(npy.read, path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_damage_a_file_has_it_is_read_or_refused_with_one_message(tmp_path, layout):
    read, draw = formats.FORMATS[layout].read, np.random.default_rng(5).integers
    formats.write(path := tmp_path / "a", _random(layout, 20), layout)
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole[: draw(len(whole) // 2, len(whole) + 1)])
        for at in draw(len(data), size=draw(4)):
            data[at] = draw(256)
        path.write_bytes(data)
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error)


# --- what must hold for every file of a set ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recording_without_events_or_out_of_order_is_refused(tmp_path, layout):
    path = tmp_path / "a"

    def said(t: list[int]) -> str:
        zeros = np.zeros(len(t), int)
        formats.write(path, Recording.of(np.array(t, int), zeros, zeros, zeros), layout)
        return _message(lambda path: formats.read(path, _events(layout)), path)

    assert "holds no events" in said([])
    assert "goes back in time at event 3;" in said([5, 5, 4, 9])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sensor_has_height_then_width_and_bounds_the_addresses(tmp_path, layout):
    one = np.ones(1, int)
    formats.write(path := tmp_path / "a", written := Recording.of(one, 99 * one, 49 * one, one), layout)
    _assert_equal(formats.read(path, _events(layout, 50, 100)), written)
    low = _message(lambda path: formats.read(path, _events(layout, 49, 100)), path)
    assert "found y from 49 to 49, expected 0 to 48 on a sensor of 49 x 100 pixels" in low
    narrow = _message(lambda path: formats.read(path, _events(layout, 50, 99)), path)
    assert "found x from 99 to 99, expected 0 to 98 on a sensor of 50 x 99 pixels" in narrow


def test_between_takes_the_start_and_leaves_the_end():
    t = np.array([1, 3, 3, 5, 5, 8])
    part = Recording.of(t, np.arange(6), np.arange(6), np.zeros(6, int)).between(3, 5)
    assert (part.t.tolist(), part.x.tolist(), len(part.p)) == ([3, 3], [1, 2], 2)
    assert len(Recording.of(t, t, t, t).between(6, 8).t) == 0


def test_readers_load_neither_torch_nor_spikingjelly_nor_pandas():
    code = (
        "import sys, bkdsnn.data.events; assert 'numpy' not in sys.modules; import bkdsnn.data.events.formats; "
        "print({'torch', 'spikingjelly', 'pandas', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_benchmark_measures_every_format(tmp_path):
    out = tmp_path / "result.json"
    importlib.import_module("readers").main(["--rounds", "1", "--events", "1000", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["format"] for row in rows] == ["AEDAT 2", "AEDAT 3.1", "5-byte bin", "DAT 2", "npy"]
    assert all(row["median"] > 0 for row in rows)
