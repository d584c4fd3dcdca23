"""A small set of recordings on disk, and another of clips, that several test files share."""

import numpy as np

from bkdsnn.config import Dataset, Events
from bkdsnn.data import prepare
from bkdsnn.data.events import aedat3, formats
from bkdsnn.data.events.recording import Recording

NMNIST = Events(layout="n-mnist", sensor=(34, 34))
TINY = Dataset(name="tiny", format="events", classes=2, image_size=36, events=NMNIST, folder="set", page="nowhere")
TRAIN, TEST = 3, 2  # recordings of each class


def recording(count, sensor=(34, 34), seed=0, duration=300_000):
    """A recording of `count` events anywhere, at any time; `sensor` is height and width."""
    draws = np.random.default_rng(seed)
    t = np.sort(draws.integers(0, duration, count))
    return Recording.of(t, *(draws.integers(0, below, count) for below in (sensor[1], sensor[0], 2)))


def state(folder):
    """What tells whether a file below `folder` was written anew."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def prepared(root):
    """Write `TINY` below `root` in N-MNIST's format and prepare it; return the manifest."""
    for split, count in (("Train", TRAIN), ("Test", TEST)):
        for label in ("0", "1"):
            folder = root / "set" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                seed = len(split) * 100 + int(label) * 10 + number
                formats.write(folder / f"{number}.bin", recording(100 + seed, seed=seed), "n-mnist")
    path = root / "data" / "tiny.json"
    prepare(TINY, root, path)
    return path


def alter(folder, change):
    """Change one training recording of `TINY`."""
    path = folder / "Train" / "1" / "0.bin"
    content = bytearray(path.read_bytes())
    if change == "a byte":
        content[0] ^= 1
        path.write_bytes(content)
    elif change == "cut":
        path.write_bytes(content[:-5])
    elif change == "added":
        path.with_name("9.bin").write_bytes(content)
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("00.bin"))


GESTURE = Dataset(
    name="gesture",
    format="events",
    classes=2,
    image_size=16,
    folder="g",
    events=Events(layout="dvs128-gesture", sensor=(16, 16), slices="time"),
)


def gestures(root):
    """Write a training and a test recording of 0.1 s, each with a clip of both classes."""
    (root / "g").mkdir()
    for split, name in (("train", "one"), ("test", "two")):
        (root / "g" / f"trials_to_{split}.txt").write_text(f"{name}.aedat\n")
        shown = recording(3000, (16, 16), seed=len(split), duration=100_000)
        aedat3.write(root / "g" / f"{name}.aedat", shown)
        clips = [aedat3.Clip(2, 10_000, 40_000), aedat3.Clip(1, 50_000, 100_000)]
        aedat3.write_labels(root / "g" / f"{name}_labels.csv", clips)
    return root / "m.json"
