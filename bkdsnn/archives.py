"""Unpacking tar archives that others made: plain files, never outside the folder, on every version of Python."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Write all files of an archive below `folder`; raises `tarfile.TarError` as `extract`."""
    for member in archive:
        if not member.isdir():
            extract(archive, member, folder)


def extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one file below `folder`.

    Raises `tarfile.TarError` for a name that leads out of the folder, a link or a device. (The filters of `tarfile`
    that do so are missing before Python 3.11.4.)
    """
    target = (folder / member.name).resolve()
    content = archive.extractfile(member) if member.isfile() else None
    if content is None or not target.is_relative_to(folder.resolve()):
        raise tarfile.TarError(f"'{member.name}' is not a plain file below the folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as stream:
        shutil.copyfileobj(content, stream)
