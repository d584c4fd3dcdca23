"""Folders of published sets of events: which file is of which class and split, and what is missing."""

from pathlib import Path

import pytest

from bkdsnn.config import Dataset, Events
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import aedat3
from bkdsnn.data.events.layouts import Item, balanced, items
from bkdsnn.data.events.published_sets import SPLITS, expected


def _spec(layout: str, classes: int) -> Dataset:
    return Dataset(
        name="recorded",
        format="events",
        classes=classes,
        image_size=32,
        events=Events(layout=layout, sensor=(32, 32)),
        page="https://example.org/recorded",
        folder="Recorded",
    )


def _touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def _message(dataset: Dataset, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        items(dataset, folder)
    return str(caught.value)


@pytest.fixture
def gesture(tmp_path: Path) -> Path:
    """Write two training recordings and a test recording of three gestures; the lists end in a blank line."""
    tables = {"user01_led": [(1, 10, 20), (3, 20, 35)], "user02_lab": [(2, 5, 9)], "user03_led": [(3, 1, 5)]}
    tables["user03_led"] += [(1, 4, 9), (2, 9, 12)]  # clips overlap in the published set, too
    for name, clips in tables.items():
        _touch(tmp_path, f"{name}.aedat")
        aedat3.write_labels(tmp_path / f"{name}_labels.csv", [aedat3.Clip(*clip) for clip in clips])
    (tmp_path / "trials_to_train.txt").write_text("user02_lab.aedat\nuser01_led.aedat\n\n")
    (tmp_path / "trials_to_test.txt").write_text("user03_led.aedat\r\n")
    return tmp_path


@pytest.mark.parametrize(("layout", "name"), [("cifar10-dvs", "cifar10_{c}_{n}.aedat"), ("n-caltech101", "i_{n}.bin")])
def test_without_a_split_the_last_tenth_of_each_class_in_the_order_of_text_is_for_test(layout, name, tmp_path):
    for label, count in (("bird", 30), ("airplane", 29)):
        _touch(tmp_path, *(f"{label}/{name.format(c=label, n=n)}" for n in range(count)), f"{label}/readme.txt")
    train, test = items(_spec(layout, 2), tmp_path)
    counts = (("airplane", 29), ("bird", 30))  # 9 is the last of either as text
    planes, birds = ([f"{c}/{name.format(c=c, n=n)}" for n in sorted(range(m), key=str)] for c, m in counts)
    assert train == [Item(path, 0) for path in planes[:27]] + [Item(path, 1) for path in birds[:27]]
    assert test == [Item(path, 0) for path in planes[27:]] + [Item(path, 1) for path in birds[27:]]


@pytest.mark.parametrize(("layout", "suffix"), [("n-mnist", ".bin"), ("n-cars", ".dat"), ("dvs-lip", ".npy")])
def test_split_folders_hold_classes_in_sorted_order(layout, suffix, tmp_path):
    train, test = SPLITS[layout]
    _touch(tmp_path, *(f"{train}/{label}/{n}{suffix}" for label in ("cars", "background") for n in (2, 10)))
    _touch(tmp_path, *(f"{test}/{label}/1{suffix}" for label in ("background", "cars")))
    found = items(_spec(layout, 2), tmp_path)
    names = [f"{train}/{label}/{n}{suffix}" for label in ("background", "cars") for n in (10, 2)]
    assert found[0] == [Item(path, label) for path, label in zip(names, (0, 0, 1, 1), strict=True)]
    assert found[1] == [Item(f"{test}/background/1{suffix}", 0), Item(f"{test}/cars/1{suffix}", 1)]


def test_folders_are_those_of_the_published_archives():
    assert SPLITS == {
        "n-mnist": ("Train", "Test"),
        "n-cars": ("n-cars_train", "n-cars_test"),
        "dvs-lip": ("train", "test"),
    }


def test_gestures_are_clips_in_the_order_of_lists_and_tables_with_labels_from_zero(gesture):
    train, test = items(_spec("dvs128-gesture", 3), gesture)
    assert train == [
        Item("user02_lab.aedat", 1, 5, 9),
        Item("user01_led.aedat", 0, 10, 20),
        Item("user01_led.aedat", 2, 20, 35),
    ]
    assert test == [
        Item("user03_led.aedat", 2, 1, 5),
        Item("user03_led.aedat", 0, 4, 9),
        Item("user03_led.aedat", 1, 9, 12),
    ]


@pytest.mark.parametrize(
    ("missing", "because"),
    [("trials_to_test.txt", "is missing"), ("user01_led.aedat", "calls for"), ("user01_led_labels.csv", "calls for")],
)
def test_missing_lists_recordings_and_tables_are_named(missing, because, gesture):
    (gesture / missing).unlink()
    message = _message(_spec("dvs128-gesture", 3), gesture)
    assert f"the file {gesture / missing} is missing" in message and because in message
    assert "Recorded/{trials_to_train.txt,trials_to_test.txt}" in message and "https://example.org" in message


def test_gestures_beyond_the_classes_and_absent_ones_are_refused(gesture):
    table = gesture / "user01_led_labels.csv"
    assert f"{table} has a clip of class 3, classes are 1 to 2" in _message(_spec("dvs128-gesture", 2), gesture)
    assert "trials_to_train.txt lists clips of 3 classes, not 4" in _message(_spec("dvs128-gesture", 4), gesture)


def test_missing_folders_wrong_class_numbers_and_empty_classes_are_named(tmp_path):
    _touch(tmp_path, "Train/0/1.bin", "Train/1/1.bin", "Test/0/1.bin")
    message = _message(_spec("n-mnist", 3), tmp_path)
    assert f"{tmp_path / 'Train'} has 2 class folders, not 3" in message
    assert "Recorded/{Train,Test}/<class>/*.bin with 3 classes" in message
    _touch(tmp_path, "Test/two/1.bin")
    assert "class '1' lies in only one of" in _message(_spec("n-mnist", 2), tmp_path)
    (tmp_path / "Test/two").rename(tmp_path / "Test/1")
    (tmp_path / "Test/1/1.bin").rename(tmp_path / "Test/1/1.npy")
    assert f"the class folder {tmp_path / 'Test/1'} has no .bin file" in _message(_spec("n-mnist", 2), tmp_path)
    (tmp_path / "Test").rename(tmp_path / "test")
    assert f"the folder {tmp_path / 'Test'} is missing" in _message(_spec("n-mnist", 2), tmp_path)


def test_a_class_too_small_to_keep_a_tenth_is_refused(tmp_path):
    _touch(tmp_path, *(f"{label}/{n}.bin" for label, count in (("ant", 10), ("bee", 9)) for n in range(count)))
    assert "class 'bee' has 9 recordings, too few to keep some for test" in _message(_spec("n-caltech101", 2), tmp_path)


@pytest.mark.parametrize("layout", ["cifar10-dvs", "n-caltech101"])
def test_what_is_expected_without_a_split_has_none(layout):
    assert expected(_spec(layout, 7)).startswith("Recorded/<class>/*.") and "7 classes" in expected(_spec(layout, 7))


@pytest.mark.parametrize(("count", "classes"), [(600, 10), (13, 5), (5, 5), (3, 2)])
def test_balanced_counts_are_those_of_classes_that_take_turns(count, classes):
    assert balanced(count, classes) == [len(range(label, count, classes)) for label in range(classes)]


def test_the_real_table_of_a_gesture_recording_is_read(samples, tmp_path):
    table = samples("events/dvs128gesture/user01_natural_labels.csv")
    (tmp_path / "user01_natural_labels.csv").write_bytes(table.read_bytes())
    _touch(tmp_path, "user01_natural.aedat")
    for trials in ("trials_to_train.txt", "trials_to_test.txt"):
        (tmp_path / trials).write_text("user01_natural.aedat\n")
    train, test = items(_spec("dvs128-gesture", 11), tmp_path)
    assert train == test and len(train) >= 11
    assert train[-1] == Item("user01_natural.aedat", 10, 171367247, 177991967)
