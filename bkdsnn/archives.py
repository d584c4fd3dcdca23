"""Unpacking archives that others made: plain files, never outside the folder, never more than the disk can take."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bkdsnn.errors import UserError

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, *_DAMAGED)
_Member = tuple[str, int, IO[bytes] | None]  # name, size in bytes, content; None: no plain file


@contextmanager
def opened(source: Path, expected: str, beside: Path | None = None) -> Iterator[Path]:
    """Give `source` as a folder, unpacked into a temporary one (in the folder `beside`) if it is a tar or zip archive.

    Raises `UserError`, with what was `expected`, for what is no archive or cannot be unpacked safely.
    """
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(dir=beside, prefix=".unpacked-") as temporary:
        try:
            unpack(source, Path(temporary))
        except _UNREADABLE as error:
            reason = str(error).splitlines()[0].rstrip(":") if str(error) else repr(error)
            raise UserError(f"{source}: cannot be unpacked ({reason}); expected {expected}") from error
        yield Path(temporary)


def unpack(source: Path, folder: Path) -> None:
    """Write all files of an archive below `folder`, which is empty.

    Raises `ValueError` for a name that leads out of the folder, a link or a device, and for more than half of what the
    disk has free. (The filters of `tarfile` are missing before Python 3.11.4, and `zipfile` has none.)
    """
    room = shutil.disk_usage(folder).free // 2
    zipped = zipfile.is_zipfile(source) and not tarfile.is_tarfile(source)  # a tar may end in a file that is a zip
    for name, size, content in _zipped(source) if zipped else _tarred(source):
        target = (folder / name).resolve()
        if content is None or not target.is_relative_to(folder.resolve()):
            raise ValueError(f"'{name}' is not a plain file below the folder")
        if (room := room - size) < 0:
            raise ValueError(f"with '{name}' it holds more than half of what the disk has free")
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("wb") as stream:
            shutil.copyfileobj(content, stream)


def _tarred(source: Path) -> Iterator[_Member]:
    with tarfile.open(source) as archive:
        for member in archive:
            if not member.isdir():
                yield member.name, member.size, archive.extractfile(member) if member.isfile() else None


def _zipped(source: Path) -> Iterator[_Member]:
    """Reading a member ends at the size that the archive states for it."""
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
                yield member.filename, member.file_size, archive.open(member) if plain else None
