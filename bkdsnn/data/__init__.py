"""Labelled images: real ones that the user supplies, and embedded ones that come with a dependency.

`prepare` checks or builds the data once and writes a manifest; `open_data` gives batches of what the manifest lists.
Importing this package loads neither torch nor NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bkdsnn.data.layout import check_counts, real_folder
from bkdsnn.data.manifest import Found, Manifest
from bkdsnn.errors import UserError
from bkdsnn.spec import Augment, Dataset

if TYPE_CHECKING:
    import torch

    from bkdsnn.data.arrays import Arrays
    from bkdsnn.data.loader import Loader


def prepare(dataset: Dataset, root: Path | None, manifest: Path) -> None:
    """Check real data below `root`, or build embedded data beside `manifest`, then write the manifest.

    Embedded arrays become `<manifest stem>.npz`. Raises UserError for whatever is missing, damaged or not the dataset
    that its name promises.
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
    workers: int = 4,
) -> Loader:
    """Return the loader of prepared data; `workers` processes decode image folders, nothing else needs any.

    Raises UserError if the manifest is of another dataset spec, if files have changed since it was written, or if
    `augment` does not suit the format.
    """
    _check_augment(dataset, augment)
    record = Manifest.read(manifest, dataset)
    if dataset.format == "image-folder":
        from bkdsnn.data.folders import FolderLoader

        return FolderLoader(
            record, dataset, batch_size=batch_size, augment=augment, seed=seed, device=device, workers=workers
        )
    from bkdsnn.data.loader import MemoryLoader

    arrays = _arrays(dataset, record, manifest)
    return MemoryLoader(
        arrays, dataset, record.digest, batch_size=batch_size, augment=augment, seed=seed, device=device
    )


def _survey(dataset: Dataset, folder: Path | None, manifest: Path) -> Found:
    if folder is None:
        from bkdsnn.data import digits

        return digits.survey(dataset, manifest.with_suffix(".npz"))
    if dataset.format == "image-folder":
        from bkdsnn.data import folders

        return folders.survey(dataset, folder)
    from bkdsnn.data import cifar

    return cifar.survey(dataset, folder)


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
    suited = ("resized_crop" if dataset.format == "image-folder" else "crop_padding", "flip")
    for name in Augment.model_fields:
        if getattr(augment, name) and name not in suited:
            raise UserError(
                f"recipe key 'augment.{name}' does not suit dataset '{dataset.name}', whose format is "
                f"'{dataset.format}'; expected only {' and '.join(suited)}"
            )
