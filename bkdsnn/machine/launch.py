"""Starting the processes of one run on this machine, and ending them together. Free of torch."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO

from bkdsnn.core.errors import RESUMABLE
from bkdsnn.machine.gpus import HELD, held_files

GRACE = 10.0  # seconds between the failure of one process and killing the others
POLL_SECONDS = 0.1


def started() -> bool:
    """Whether this process is one of several that `launch` or torchrun started."""
    return "WORLD_SIZE" in os.environ


def main() -> bool:
    """Whether this process is the first of its run, the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def launch(arguments: Sequence[str], processes: int, gpus: Sequence[str] = ()) -> int:
    """Run `python -m bkdsnn` with these arguments in this many `processes`; return the exit code of the run.

    Each process gets one of the `gpus`, if any are given. Signals are passed on to all. The output of process 0 is
    shown; that of another process only if it failed and process 0 reported no error of its own.
    """
    running: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(processes - 1)]
        stack.enter_context(_passing_on(running))
        _start(running, arguments, processes, gpus, outputs)
        codes = _ended(running)
        for code, stream in zip(codes[1:], outputs):
            if code not in (0, RESUMABLE) and codes[0] != 1:
                stream.seek(0)
                sys.stderr.write(stream.read())
    return next((abs(code) for code in codes if code), 0) if codes[0] in (0, RESUMABLE) else abs(codes[0])


def _start(
    running: list[subprocess.Popen[bytes]],
    arguments: Sequence[str],
    processes: int,
    gpus: Sequence[str],
    outputs: Sequence[IO[str]],
) -> None:
    """Start the processes; they inherit the GPU locks, and so keep them if this process is killed."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if gpus:
            own |= {"CUDA_VISIBLE_DEVICES": gpus[rank], HELD: gpus[rank]}
        line, output = [sys.executable, "-m", "bkdsnn", *arguments], outputs[rank - 1] if rank else None
        environment = os.environ | shared | own
        running.append(subprocess.Popen(line, env=environment, stdout=output, stderr=output, pass_fds=held_files()))


@contextlib.contextmanager
def _passing_on(running: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass SIGTERM and Ctrl-C on to all processes; kill those that are still running when the block ends."""

    def forward(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in running:
            process.kill()


def _ended(running: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all processes and return their exit codes; `GRACE` seconds after one failed the others are killed."""
    limit = None
    while any(process.poll() is None for process in running):
        failed = any(process.poll() not in (None, 0, RESUMABLE) for process in running)
        limit = limit or (time.monotonic() + GRACE if failed else None)
        if limit and time.monotonic() > limit:
            for process in running:
                process.kill()
        time.sleep(POLL_SECONDS)
    return [process.wait() for process in running]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
