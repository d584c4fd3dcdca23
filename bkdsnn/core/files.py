"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bkdsnn.core.errors import UserError

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")  # as `replacing` names them


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on failure it is removed.

    A full disk, a read-only folder or a missing permission raises `UserError`, and `path` keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`. No other process may be writing there."""
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def unwritable(path: Path, error: OSError) -> UserError:
    """Return the error that says which file could not be written, why, and what to do."""
    in_the_way = isinstance(error, FileExistsError)
    reason = f"{error.filename} is no folder" if in_the_way else error.strerror or error
    return UserError(f"cannot write {path}: {reason}; free space or fix the permissions, then rerun")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records with the keys of the first as CSV: floats at full precision; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def lock(path: Path) -> IO[str] | None:
    """Return a file locked until the process ends, None if another holds it; `UserError` if it cannot be created."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except BlockingIOError:
            held = False
    except OSError as error:
        raise unwritable(path, error) from error
    if not held:  # or the locked file was meanwhile removed, and perhaps made anew
        stream.close()
    return stream if held else None


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
