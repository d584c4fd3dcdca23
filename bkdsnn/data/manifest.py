"""The manifest: one JSON file that describes the data of a dataset exactly, with checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bkdsnn.config import Dataset, Strict
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, parsed


class FileRecord(Strict):
    """One file or one folder, with its path relative to the folder of the dataset.

    The checksum of a file is that of its bytes; that of a folder of recordings covers all; image folders have none.
    """

    path: str
    bytes: int
    sha256: str | None = None


class Found(NamedTuple):
    """Result of a survey of the data: numbers of images or recordings, digest of their content, files."""

    train: int
    test: int
    digest: str
    files: list[FileRecord]


class Manifest(Strict):
    """Contents of the manifest. `root` is the dataset's folder, None for embedded data, stored beside it."""

    name: str
    label: str
    embedded: bool
    digest: str
    train: int
    test: int
    classes: int
    files: list[FileRecord]
    root: str | None
    dataset: Dataset
    versions: dict[str, int]

    @classmethod
    def of(cls, dataset: Dataset, found: Found, root: Path | None) -> Manifest:
        """Return the manifest of `dataset`, found by a survey below `root` (None: beside the manifest)."""
        return cls(
            name=dataset.name,
            label=dataset.label or dataset.name,
            embedded=dataset.embedded,
            classes=dataset.classes,
            root=None if root is None else str(root.resolve()),
            dataset=dataset,
            versions=dataset.raised(),
            **found._asdict(),
        )

    @classmethod
    def read(cls, path: Path, dataset: Dataset) -> Manifest:
        """Read the manifest at `path`; UserError if it is absent, damaged or belongs to another dataset spec."""
        if not path.is_file():
            raise UserError(f"the data manifest {path} is missing; run the workflow, which prepares the data first")
        again = "; delete the manifest and run the workflow again"
        manifest = parsed(cls, path.read_bytes(), f"data manifest {path}", again)
        manifest._check_belongs(path, dataset)
        return manifest

    def write(self, path: Path) -> None:
        """Write the manifest atomically as JSON."""
        files.write_text(path, self.model_dump_json(indent=1) + "\n")

    def verify(self, folder: Path) -> None:
        """Check size and SHA-256 of every file below `folder`; UserError names the first missing or changed file."""
        for record in self.files:
            path = folder / record.path
            if not path.is_file():
                raise UserError(f"{path} is missing; the data manifest of '{self.name}' lists it: restore the file")
            if (now := file_record(path)) != record:
                raise UserError(
                    f"{path} has changed since the data of '{self.name}' were prepared: found {_shown(now)}, "
                    f"expected {_shown(record)}; restore the file, or delete the manifest and run the workflow again"
                )

    def _check_belongs(self, path: Path, dataset: Dataset) -> None:
        mine = {**self.dataset.model_dump(mode="json"), "versions": self.versions}
        wanted = {**dataset.model_dump(mode="json"), "versions": dataset.raised()}
        for key in sorted(wanted):
            if mine[key] != wanted[key]:
                raise UserError(
                    f"data manifest {path}: '{key}' is {mine[key]!r}, but this run's dataset '{dataset.name}' "
                    f"has {wanted[key]!r}; delete the manifest and run the workflow again"
                )


def file_record(path: Path) -> FileRecord:
    """Return name, size in bytes and SHA-256 of a file."""
    return FileRecord(path=path.name, bytes=path.stat().st_size, sha256=files.sha256(path))


def digest_of(lines: Iterable[str]) -> str:
    """Return the SHA-256 of the lines, each ended by a newline."""
    checksum = hashlib.sha256()
    for line in lines:
        checksum.update(f"{line}\n".encode())
    return checksum.hexdigest()


def _shown(record: FileRecord) -> str:
    return f"{record.bytes:,} bytes, SHA-256 {(record.sha256 or '')[:12]}"
