"""Labelled images and event recordings: real ones that the user supplies, or embedded ones built from scikit-learn's.

`prepare` checks or builds the data once and writes a manifest; `open_data` returns a loader for the listed data.
Importing this package loads neither torch nor NumPy.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from bkdsnn.config import Augment, Dataset, View
from bkdsnn.core.errors import UserError
from bkdsnn.data.layout import check_counts, real_folder
from bkdsnn.data.manifest import Found, Manifest

if TYPE_CHECKING:
    import torch

    from bkdsnn.data.arrays import Arrays
    from bkdsnn.data.events.frames import Clips
    from bkdsnn.data.loader import Loader, Split
    from bkdsnn.machine.distributed import Group


def prepare(dataset: Dataset, root: Path | None, manifest: Path) -> None:
    """Check real data below `root`, or build embedded data beside `manifest`, then write the manifest.

    Embedded arrays become `<manifest stem>.npz`, embedded recordings the folder `<dataset>`, which is kept if the
    manifest of an earlier call describes it. Raises UserError if data are missing or damaged, or if their numbers are
    not those of the published dataset of that name.
    """
    folder = None if dataset.embedded else real_folder(dataset, root)
    found = _survey(dataset, folder, manifest)
    check_counts(dataset, found.train, found.test)
    Manifest.of(dataset, found, folder).write(manifest)


def open_data(
    dataset: Dataset,
    manifest: Path,
    *,
    batch_size: int,
    augment: Augment,
    seed: int,
    device: torch.device,
    view: View = View(),  # noqa: B008 (it is frozen)
    timesteps: int = 1,
    teacher_timesteps: int | None = None,
    workers: int = 4,
    group: Group | None = None,
) -> Loader:
    """Return the loader of prepared data.

    `view` says how test images are cropped from image files; images in memory already have the right size. Of a
    recording the student gets `timesteps` frames and its teacher, if any, `teacher_timesteps`; both are ignored for
    images. `workers` processes decode image files and apply RandAugment; other data are loaded without them. All
    processes of a `group` get the same batches. Raises UserError if the manifest belongs to another dataset spec, if
    files have changed since it was written, if frames are missing, or if `augment` is invalid or does not suit the
    format.
    """
    from bkdsnn.data.loader import ImageLoader
    from bkdsnn.machine.distributed import ALONE

    _check_augment(dataset, augment)
    record = Manifest.read(manifest, dataset)
    if dataset.events:
        from bkdsnn.data.events.event_loader import EventLoader

        clips, teacher_clips = _clips(dataset, manifest, timesteps, teacher_timesteps)
        return EventLoader(
            clips, teacher_clips, record.digest, batch_size=batch_size, augment=augment, seed=seed, device=device
        )
    if dataset.format == "image-folder":
        train, test = _file_splits(dataset, record, augment, seed, device, view, workers)
    else:
        train, test = _memory_splits(dataset, _arrays(dataset, record, manifest), augment, seed, device, workers)
    return ImageLoader(
        train,
        test,
        dataset,
        record.digest,
        batch_size=batch_size,
        augment=augment,
        seed=seed,
        device=device,
        group=group or ALONE,
    )


def _clips(dataset: Dataset, manifest: Path, timesteps: int, teacher_timesteps: int | None) -> tuple[Clips, Clips]:
    """Return the frames for the student and those for its teacher."""
    from bkdsnn.data.events.frames import load

    clips = load(dataset, manifest, timesteps)
    return clips, clips if teacher_timesteps in (None, timesteps) else load(dataset, manifest, teacher_timesteps)


def _file_splits(
    dataset: Dataset, record: Manifest, augment: Augment, seed: int, device: torch.device, view: View, workers: int
) -> tuple[Split, Split]:
    from bkdsnn.data.folders import splits
    from bkdsnn.data.views import CentralView, RandomView, ViewSplit

    train, test = splits(dataset, record)
    return (
        ViewSplit(train, RandomView(dataset, augment, view, seed), device, workers),
        ViewSplit(test, CentralView(dataset.image_size, view), device, workers),
    )


def _memory_splits(
    dataset: Dataset, arrays: Arrays, augment: Augment, seed: int, device: torch.device, workers: int
) -> tuple[Split, Split]:
    """Return splits kept on the device; training images stay on the CPU if RandAugment must distort them singly."""
    from bkdsnn.data.loader import MemorySplit

    test = MemorySplit(arrays.test_images, arrays.test_labels, device)
    if not augment.randaugment:
        return MemorySplit(arrays.train_images, arrays.train_labels, device, augment, seed), test
    from bkdsnn.data.views import ArrayPictures, RandomView, ViewSplit

    pictures = ArrayPictures(arrays.train_images, arrays.train_labels)
    return ViewSplit(pictures, RandomView(dataset, augment, View(crop=1.0), seed), device, workers), test


def _survey(dataset: Dataset, folder: Path | None, manifest: Path) -> Found:
    if dataset.events:
        from bkdsnn.data.events.survey import survey

        return survey(dataset, folder) if folder else _simulated(dataset, manifest)
    if folder is None:
        from bkdsnn.data import digits

        return digits.survey(dataset, manifest.with_suffix(".npz"))
    if dataset.format == "image-folder":
        from bkdsnn.data import folders

        return folders.survey(dataset, folder)
    from bkdsnn.data import cifar

    return cifar.survey(dataset, folder)


def _simulated(dataset: Dataset, manifest: Path) -> Found:
    """Write the embedded recordings, or reuse them if the manifest describes exactly those on disk; survey them."""
    from bkdsnn.data.events import simulate
    from bkdsnn.data.events.survey import survey

    folder = manifest.parent / dataset.name
    with contextlib.suppress(UserError):
        known = Manifest.read(manifest, dataset)
        if (found := survey(dataset, folder)).digest == known.digest:
            return found
    simulate.build(dataset, folder)
    return survey(dataset, folder)


def _arrays(dataset: Dataset, record: Manifest, manifest: Path) -> Arrays:
    """Return all images of a dataset that fits into memory, after a check of its files."""
    if record.root is None:
        from bkdsnn.data.arrays import Arrays

        record.verify(manifest.parent)
        return Arrays.load(manifest.with_suffix(".npz"), dataset)
    from bkdsnn.data import cifar

    record.verify(Path(record.root))
    return cifar.read(dataset, Path(record.root))


def _check_augment(dataset: Dataset, augment: Augment) -> None:
    for key, suited in _unsuited(dataset).items():
        if getattr(augment, key):
            raise UserError(
                f"recipe key 'augment.{key}' does not suit dataset '{dataset.name}', whose format is "
                f"'{dataset.format}'; expected '{suited}' in its place, or neither"
            )
    if augment.randaugment:
        from bkdsnn.data.randaugment import check_notation

        check_notation(augment.randaugment)


def _unsuited(dataset: Dataset) -> dict[str, str]:
    """Return the fields of Augment that the format does not support, each with the field to use instead."""
    if dataset.events:
        return dict.fromkeys(("crop_padding", "resized_crop", "randaugment", "erasing"), "neuromorphic")
    crops = ("crop_padding", "resized_crop")
    suited, other = reversed(crops) if dataset.format == "image-folder" else crops
    return {other: suited, "neuromorphic": "randaugment"}
