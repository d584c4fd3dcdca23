"""Safe unpacking of untrusted tar and zip archives: regular files only, inside one folder, within a size limit.

The standard library does not suffice: the filters of `tarfile` are missing before Python 3.11.4; `zipfile` has none.
"""

from __future__ import annotations

import functools
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from bkdsnn.core.errors import UserError

PIECE = 1 << 20  # bytes copied at a time
LEAST = 512  # bytes charged for each file at least, which also limits the number of empty files
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # first bytes of a zip archive, and of an empty one
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,  # zip: encrypted, or NotImplementedError for an unknown compression
    ValueError,  # a name with a null byte
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class _Refused(Exception):
    """An archive holds something that is not allowed."""


class _Member(NamedTuple):
    """One entry of an archive."""

    name: str
    folder: bool
    plain: bool
    open: Callable[[], IO[bytes] | None]


def unpack(source: Path, folder: Path, expected: str, total: int, room: Callable[[str], int]) -> None:
    """Write the files of a tar or zip archive below `folder`.

    `room` returns the allowed size in bytes of the file with a given name; 0 skips the file. `total` limits the sum.
    Raises `UserError` for a file that is damaged or no archive, and for an archive with a link, a device, a path that
    leads out of the folder, or too many bytes. The message says what was `expected`.
    """
    try:
        with _members(source) as members:
            for member in members:
                total = _write(member, folder, total, room)
    except (_Refused, *_DAMAGED) as error:
        reason = " ".join(str(error).split())  # tarfile's message has several lines
        raise UserError(f"{source}: cannot be unpacked ({reason}); expected {expected}") from error


def half_of_the_disk(folder: Path) -> int:
    """Half of the free bytes on the disk of `folder`, a limit that keeps an untrusted archive from filling the disk."""
    return shutil.disk_usage(folder).free // 2


def _write(member: _Member, folder: Path, total: int, room: Callable[[str], int]) -> int:
    """Write one member unless `room` gives it 0 bytes; return how many bytes are then left of `total`."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.plain or member.folder):
        raise _Refused(f"'{member.name}' is not a plain file below the folder")
    most = 0 if member.folder else room(member.name)
    if most and total <= 0:
        raise _Refused("it has more bytes than are allowed here")
    content = member.open() if most else None
    if content is None:
        return total
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as stream:
        return total - max(_copy(content, stream, min(most, total), member.name), LEAST)


def _copy(content: IO[bytes], stream: IO[bytes], most: int, name: str) -> int:
    """Copy all bytes and return their number, which may differ from the size that the archive states."""
    copied = 0
    while piece := content.read(PIECE):
        copied += len(piece)
        if copied > most:
            raise _Refused(f"'{name}' has more than the {most:,} bytes that are allowed here")
        stream.write(piece)
    return copied


@contextmanager
def _members(source: Path) -> Iterator[Iterator[_Member]]:
    with source.open("rb") as stream:
        begins = stream.read(4)
    if begins in _ZIP:  # `is_zipfile` looks at the end: it is wrong for a tar whose last file is a zip
        with zipfile.ZipFile(source) as packed:
            yield (_zipped(packed, info) for info in packed.infolist())
    else:
        with tarfile.open(source) as archive:
            yield (
                _Member(info.name, info.isdir(), info.isfile(), functools.partial(archive.extractfile, info))
                for info in archive
            )


def _zipped(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    """Return the member of a zip. Links are recognised by the Unix file mode, which other systems leave empty."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    return _Member(info.filename, info.is_dir(), kind in (0, stat.S_IFREG), functools.partial(packed.open, info))
