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
from typing import IO, TYPE_CHECKING, Any

from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.core.progress import log
from bkdsnn.runs.ledger import Attempt, Entry, Event, Place, read

if TYPE_CHECKING:
    from torch import Tensor

    from bkdsnn.runs.slices import Slice

POLL_SECONDS = 0.5  # between two looks whether another writer is gone


class RunFolder:
    """Paths and artefacts of one run.

    `metrics.json` is written last and alone marks success. `checkpoints/` is not declared to the workflow, so it
    survives a failed attempt; it is removed on success.
    """

    def __init__(self, runs: Path, spec: RunSpec) -> None:
        self.runs = runs
        self.spec = spec
        self.path = runs / spec.name
        self.checkpoint = self.path / "checkpoints" / "last.safetensors"
        self.lock = self.path / "checkpoints" / "lock"
        self.ledger = runs.parent / "ledger" / f"{spec.name}.jsonl"
        self.entry: Entry | None = None

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return (self.path / "metrics.json").is_file()

    @property
    def state(self) -> str:
        """In words: `finished`, `failed` at the last attempt, `partial` (it has a checkpoint), or `to do`."""
        signs = {"finished": "metrics.json", "failed": "failure.json", "partial": "checkpoints/last.safetensors"}
        return next((state for state, name in signs.items() if (self.path / name).is_file()), "to do")

    def of(self, spec: RunSpec) -> RunFolder:
        """Return the folder of another run of the same scale."""
        return RunFolder(self.runs, spec)

    @contextlib.contextmanager
    def locked(self, part: Slice) -> Iterator[None]:
        """Wait for another writer, keep others out, and clear up after a killed one. The lock dies with the process.

        Raises `Interrupted` when the slice ends first, and `UserError` where nothing can be written.
        """
        with self._claim(part) as stream:
            _sign(stream, self.lock)
            files.sweep(self.path)
            yield

    def _claim(self, part: Slice) -> IO[str]:
        told = False
        while (stream := files.lock(self.lock)) is None:
            owner = f"{self.path}: another process ({_signature(self.lock)}) is writing this run"
            if part.over:
                raise Interrupted(f"{owner}; run again to wait for it")
            if not told:
                log.info("%s; waiting for it", owner)
                told = True
            time.sleep(POLL_SECONDS)
        return stream

    def begin(self, device: str, origin: Place, memory: Callable[[], float]) -> None:
        """Enter an attempt that begins where the checkpoint stands, and write `spec.json`.

        `memory` tells its peak memory in MiB.
        """
        self.entry = Entry(self.ledger, memory)
        self.entry.begin(self.spec, device, origin)
        files.write_json(self.path / "spec.json", json.loads(self.spec.canonical()))

    def saved(self, epoch: int, step: int) -> None:
        """Enter that the attempt saved a checkpoint."""
        if self.entry:
            self.entry.saved(epoch, step)

    def attempts(self) -> list[Attempt]:
        """Return the attempts since the run was last finished."""
        every = read(self.ledger)
        finished = [index for index, one in enumerate(every) if one.event == "finished"]
        return every[finished[-1] + 1 :] if finished else every

    def write_history(self, records: list[dict[str, Any]]) -> None:
        """Begin `history.jsonl` with the epochs that a checkpoint remembers."""
        files.write_text(self.path / "history.jsonl", "".join(json.dumps(record) + "\n" for record in records))

    def append_history(self, record: dict[str, Any]) -> None:
        """Add a finished epoch to `history.jsonl`."""
        _append(self.path / "history.jsonl", record)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Enter how the attempt ends; an error leaves `failure.json`, and tables then show the cell as failed."""
        failure = self.path / "failure.json"
        failure.unlink(missing_ok=True)
        try:
            yield
        except (Interrupted, KeyboardInterrupt, SystemExit) as pause:
            self._end("interrupted", str(pause))
            raise
        except Exception as error:
            message = str(error) or repr(error)
            self._end("failed", message)
            with contextlib.suppress(UserError):
                files.write_json(failure, {"run": self.spec.name, "message": message})
            raise
        self._end("finished")

    def _end(self, event: Event, message: str = "") -> None:
        if self.entry:
            self.entry.end(event, message)

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights. Raises `UserError` if the run is unfinished or the file is not of this spec."""
        from bkdsnn.runs.checkpoint import read_tensors

        if not self.finished:
            raise UserError(f"run {self.spec.name} is not finished: no {self.path / 'metrics.json'}")
        tensors, header = read_tensors(self.path / "weights.safetensors")
        if header.get("spec") != self.spec.digest:
            raise UserError(
                f"{self.path / 'weights.safetensors'}: belongs to spec {str(header.get('spec'))[:10]}, "
                f"expected {self.spec.digest[:10]}; delete the folder and run again"
            )
        return tensors

    def clear_checkpoints(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _append(path: Path, record: dict[str, Any]) -> None:
    try:
        with path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise files.unwritable(path, error) from error


def _sign(stream: IO[str], lock: Path) -> None:
    """Write into the lock who holds it."""
    try:
        stream.truncate(0)
        os.write(stream.fileno(), f"{socket.gethostname()} pid {os.getpid()}".encode())  # closing must not fail again
    except OSError as error:
        raise files.unwritable(lock, error) from error


def _signature(lock: Path) -> str:
    """Who holds the lock."""
    with contextlib.suppress(OSError):
        return lock.read_text() or "unknown"
    return "unknown"
