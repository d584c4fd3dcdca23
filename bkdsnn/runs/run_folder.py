"""The folder of one run: `results/<scale>/runs/<run>/`, and who may write there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.core.progress import log
from bkdsnn.runs import schema
from bkdsnn.runs.ledger import AttemptWriter, read
from bkdsnn.runs.schema import Attempt, Epoch, Event, Failure, Place

if TYPE_CHECKING:
    from bkdsnn.runs.slices import Slice

POLL_SECONDS = 0.5  # between two checks whether another writer has finished


class RunFolder:
    """Paths and artefacts of one run.

    `metrics.json` is written last, so its existence marks success. `checkpoints/` is no declared output of the
    workflow: Snakemake, which deletes the outputs of a failed job, leaves it for the next attempt. Success removes it.
    """

    def __init__(self, runs: Path, spec: RunSpec) -> None:
        self.runs = runs
        self.spec = spec
        self.path = runs / spec.name
        self.checkpoint = self.path / "checkpoints" / "last.safetensors"
        self.failure = self.path / "failure.json"
        self.lock = self.path / "checkpoints" / "lock"
        self.ledger = runs.parent / "ledger" / f"{spec.name}.jsonl"
        self.attempt: AttemptWriter | None = None

    @property
    def finished(self) -> bool:
        """Whether the run ended successfully."""
        return (self.path / "metrics.json").is_file()

    @property
    def state(self) -> str:
        """`finished`, `failed` (in the last attempt), `partial` (there is a checkpoint), or `to do`."""
        signs = {"finished": "metrics.json", "failed": "failure.json", "partial": "checkpoints/last.safetensors"}
        return next((state for state, name in signs.items() if (self.path / name).is_file()), "to do")

    def of(self, spec: RunSpec) -> RunFolder:
        """Return the folder of another run of the same scale."""
        return RunFolder(self.runs, spec)

    @contextlib.contextmanager
    def locked(self, time_slice: Slice) -> Iterator[None]:
        """Lock this folder for writing, waiting for another writer; then remove temporary files of a killed one.

        The lock ends with the process. Raises `Interrupted` if the time slice ends while waiting, and `UserError` if
        nothing can be written here.
        """
        with self._claim(time_slice) as stream:
            _sign(stream, self.lock)
            files.sweep(self.path)
            yield

    def _claim(self, time_slice: Slice) -> IO[str]:
        announced = False
        while (stream := files.lock(self.lock)) is None:
            owner = f"{self.path}: another process ({_signature(self.lock)}) is writing this run"
            if time_slice.over:
                raise Interrupted(f"{owner}; run again to wait for it")
            if not announced:
                log.info("%s; waiting for it", owner)
                announced = True
            time.sleep(POLL_SECONDS)
        return stream

    def begin(self, device: str, origin: Place, memory: Callable[[], float]) -> None:
        """Record in the ledger that an attempt begins at `origin`, and write `spec.json`.

        `memory` returns the peak memory in MiB.
        """
        self.attempt = AttemptWriter(self.ledger, memory, self.spec, device, origin)
        self.write_spec()

    def write_spec(self) -> None:
        """Write `spec.json`."""
        files.write_json(self.path / "spec.json", json.loads(self.spec.canonical()))

    def saved(self, epoch: int, step: int) -> None:
        """Record in the ledger that the attempt saved a checkpoint."""
        if self.attempt:
            self.attempt.saved(epoch, step)

    def attempts(self) -> list[Attempt]:
        """Return the attempts since the run was last finished."""
        every = read(self.ledger)
        finished = [index for index, one in enumerate(every) if one.event == "finished"]
        return every[finished[-1] + 1 :] if finished else every

    def write_history(self, epochs: list[Epoch]) -> None:
        """Write `history.jsonl` anew with these epochs, such as those in a checkpoint."""
        files.write_text(self.path / "history.jsonl", "".join(map(_line, epochs)))

    def append_history(self, epoch: Epoch) -> None:
        """Add a finished epoch to `history.jsonl`."""
        path = self.path / "history.jsonl"
        try:
            with path.open("a") as stream:
                stream.write(_line(epoch))
        except OSError as error:
            raise files.unwritable(path, error) from error

    def failed(self, message: str) -> None:
        """Write `failure.json`, by which tables show the cell as failed. Raises `UserError` if that is impossible."""
        schema.write(self.failure, Failure(run=self.spec.name, message=message))

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record in the ledger how the attempt inside the block ends; an error also marks the run as failed."""
        self.failure.unlink(missing_ok=True)
        try:
            yield
        except (Interrupted, KeyboardInterrupt, SystemExit) as pause:
            self._end("interrupted", str(pause))
            raise
        except Exception as error:
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._end("failed", message)
            with contextlib.suppress(UserError):
                self.failed(message)
            raise
        self._end("finished")

    def _end(self, event: Event, message: str = "") -> None:
        if self.attempt:
            self.attempt.end(event, message)

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints, which only an unfinished run needs."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _line(epoch: Epoch) -> str:
    return json.dumps(epoch.model_dump(exclude_none=True)) + "\n"


def _sign(stream: IO[str], lock: Path) -> None:
    """Write into the lock file which process holds it."""
    try:
        stream.truncate(0)
        os.write(stream.fileno(), f"{socket.gethostname()} pid {os.getpid()}".encode())  # unbuffered: close cannot fail
    except OSError as error:
        raise files.unwritable(lock, error) from error


def _signature(lock: Path) -> str:
    """The process that holds the lock, as `_sign` wrote it."""
    with contextlib.suppress(OSError):
        return lock.read_text() or "unknown"
    return "unknown"
