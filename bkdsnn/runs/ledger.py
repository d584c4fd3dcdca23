"""The ledger: a record of every attempt at every run, successful or not. Free of torch.

An attempt adds a line to results/<scale>/ledger/<run>.jsonl when it begins, saves and ends. Lines are never changed or
removed, so the record survives failures, kills, and the deletion of the run's folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, explain
from bkdsnn.runs.schema import Attempt, Event, Place


class AttemptWriter:
    """Writes the lines of one attempt; each repeats all that is known so far. `memory` returns peak memory in MiB."""

    def __init__(self, path: Path, memory: Callable[[], float], spec: RunSpec, device: str, origin: Place) -> None:
        """Write the device and the epoch and step that the attempt starts at. Raises `UserError` if that fails."""
        self._path, self._memory, self._began = path, memory, time.monotonic()
        self._known = Attempt(
            attempt=uuid.uuid4().hex[:8],
            event="began",
            run=spec.name,
            spec=spec.digest,
            kind=spec.kind,
            dataset=spec.dataset.name,
            network=spec.network.name,
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            host=socket.gethostname(),
            pid=os.getpid(),
            device=device,
            origin=origin,
            reached=origin,
            seconds=0.0,
            peak_memory_mb=0.0,
        )
        self._add("began")

    def saved(self, epoch: int, step: int) -> None:
        """Write that a checkpoint was saved; if the ledger cannot be written, training goes on all the same."""
        with contextlib.suppress(UserError):
            self._add("saved", reached=(epoch, step))

    def end(self, event: Event, message: str = "") -> None:
        """Write how the attempt ended; if the ledger cannot be written, that is ignored."""
        with contextlib.suppress(UserError):
            self._add(event, message=message)

    def _add(self, event: Event, **changes: Any) -> None:
        spent = {"seconds": round(time.monotonic() - self._began, 3), "peak_memory_mb": round(self._memory(), 1)}
        self._known = self._known.model_copy(update={"event": event, **spent, **changes})
        _append(self._path, json.dumps(self._known.model_dump()))


def read(path: Path) -> list[Attempt]:
    """Return the attempts of one run, first to last; an empty list if the file does not exist.

    Lines of one attempt are merged, because older versions wrote only what had changed. An incomplete line, left by a
    kill, is skipped. Raises `UserError` for records of anything but attempts.
    """
    merged: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            merged.setdefault(record["attempt"], {}).update(record)
    try:
        return [Attempt.model_validate(record) for record in merged.values() if "run" in record]
    except ValidationError as error:
        raise explain(error, Attempt, str(path)) from error


def under_way(lock: Path) -> bool:
    """Whether a process holds the lock of a run."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _append(path: Path, line: str) -> None:
    """Append a line in one write, preceded by a line break if a kill left the last line incomplete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            stream.seek(max(0, stream.tell() - 1))
            torn = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * torn + line.encode() + b"\n")
    except OSError as error:
        raise files.unwritable(path, error) from error
