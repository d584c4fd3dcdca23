"""The layout of the published sets of event recordings on disk: folders, lists and file suffixes, as plain data."""

from __future__ import annotations

from bkdsnn.config import Dataset

# Folders of training and of test recordings; in each lies one folder per class. CIFAR10-DVS and N-Caltech101, which
# have class folders only, are published without a split.
SPLITS = {
    "n-mnist": ("Train", "Test"),
    "n-cars": ("n-cars_train", "n-cars_test"),
    "dvs-lip": ("train", "test"),
}
TRIALS = ("trials_to_train.txt", "trials_to_test.txt")  # DVS128 Gesture: one file name a line, of all classes
SUFFIX = {
    "cifar10-dvs": ".aedat",
    "dvs128-gesture": ".aedat",
    "n-caltech101": ".bin",
    "n-mnist": ".bin",
    "n-cars": ".dat",
    "dvs-lip": ".npy",
}


def expected(dataset: Dataset) -> str:
    """Describe the files that an event dataset needs, by their paths below the data root."""
    assert dataset.events  # held by the validator of `Dataset`
    layout, suffix = dataset.events.layout, SUFFIX[dataset.events.layout]
    if layout == "dvs128-gesture":
        return (
            f"{dataset.folder}/{{{','.join(TRIALS)}}}, and for every recording <name>{suffix} that they list its clips "
            f"<name>_labels.csv, classes 1 to {dataset.classes}"
        )
    split = f"{{{','.join(SPLITS[layout])}}}/" if layout in SPLITS else ""
    return f"{dataset.folder}/{split}<class>/*{suffix} with {dataset.classes} classes"
