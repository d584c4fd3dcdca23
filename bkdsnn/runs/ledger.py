"""The ledger: every attempt at every run, whatever became of it. Free of torch.

results/<scale>/ledger/<run>.jsonl has a line when an attempt begins, saves and ends. Lines are only ever added, so the
file outlives failures, kills, and the folder of the run.
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
    """Writes the lines of one attempt, each with all that is known by then; `memory` tells its peak memory in MiB."""

    def __init__(self, path: Path, memory: Callable[[], float], spec: RunSpec, device: str, origin: Place) -> None:
        """Write where and from where the attempt begins. Raises `UserError` if that cannot be written."""
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
        """Write that a checkpoint was saved; a ledger that cannot be written stops no training."""
        with contextlib.suppress(UserError):
            self._add("saved", reached=(epoch, step))

    def end(self, event: Event, message: str = "") -> None:
        """Write how the attempt ended, if that can be written."""
        with contextlib.suppress(UserError):
            self._add(event, message=message)

    def _add(self, event: Event, **changes: Any) -> None:
        spent = {"seconds": round(time.monotonic() - self._began, 3), "peak_memory_mb": round(self._memory(), 1)}
        self._known = self._known.model_copy(update={"event": event, **spent, **changes})
        _append(self._path, json.dumps(self._known.model_dump()))


def read(path: Path) -> list[Attempt]:
    """Return the attempts of one run, first to last; none if there is no such file.

    Half a line, which a kill left, is passed over; lines of older versions add to those before. Raises `UserError` for
    lines that are of something else.
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
    """Add a line in one write, behind a line of its own if a kill left half of one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            stream.seek(max(0, stream.tell() - 1))
            torn = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * torn + line.encode() + b"\n")
    except OSError as error:
        raise files.unwritable(path, error) from error
