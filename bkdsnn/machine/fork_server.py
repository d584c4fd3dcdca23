"""A fork server: one process imports torch once and forks for each short command of a workflow. Free of torch.

`python -m bkdsnn` calls `served`, the client. It connects to the server of its workflow, or starts it if there is none,
sends its arguments and descriptors 0 to 2, passes signals on, and ends as its command ended. The server's address is a
digest of everything that a process inherits or imports: user, folder, environment, limits, Python, this project's code.
So a server only ever serves clients in whose place it could have been started, and a changed file has another server.

The address is an abstract one of Linux: it has no file, and is free again as soon as the server has ended. Both sides
check that the other one belongs to the same user. A command ends with its client and with its server, even if these
are killed, and the server ends with its Snakemake, once the last command has ended. If the server ends first, the
client carries out the command itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WORKFLOW = "BKDSNN_FORK_SERVER"  # variable with the process ID of the Snakemake that the server belongs to
COMMANDS = ("train", "activity", "gradcam", "features")  # those that import torch
PASSED_ON = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGCONT),
}
LARGEST = 2**16  # bytes of a command's arguments
TRIES, PAUSE = 100, 0.01  # to connect, seconds in between; another client may be about to start the server
PR_SET_PDEATHSIG = 1  # as in Linux's prctl.h
ROOT = Path(__file__).resolve().parents[2]
_taken_over_mb = 0.0  # in a child of the server: what that had mapped of files, such as torch's libraries

Follow = Callable[[], "list[str] | None"]  # what to do when something happens; in a new child: returns its arguments


def offer(device: str) -> None:
    """Let the jobs of this Snakemake use a fork server, unless `device` may be a GPU or the system lacks what it takes.

    A variable that the user has set is left as it is; an empty one means that there is no server.
    """
    gpu = device.startswith("cuda") or (device == "auto" and Path("/sys/module/nvidia").exists())
    with contextlib.suppress(AttributeError, OSError):  # neither macOS nor Linux before 5.3
        os.close(os.pidfd_open(os.getpid()))
        if not gpu:
            os.environ.setdefault(WORKFLOW, str(os.getpid()))


def served(arguments: list[str]) -> int | None:
    """Let the fork server of this workflow carry out a command and return its exit code, or end by the same signal.

    Returns None if this process has to carry it out: outside of such a workflow, for other commands, for a run on more
    than one thread, or because the server has ended.
    """
    plain = sys.orig_argv[1:3] == ["-m", "bkdsnn"] and os.environ.get("OMP_NUM_THREADS") == "1"
    if not (os.environ.get(WORKFLOW) and plain and arguments and arguments[0] in COMMANDS):
        return None
    try:
        with connected(address()) as connection:
            status = followed(connection, arguments)
    except OSError as error:
        print(f"no fork server ({error.strerror or error}); going on without it", file=sys.stderr)
        return None
    return end_as(status)


def address() -> str:
    """Return the address of the server that could stand in for this process."""
    os.umask(umask := os.umask(0))
    code = (path for folder in ("bkdsnn", "config") for path in sorted((ROOT / folder).rglob("*.*")))
    stamps = [(str(path), path.stat()) for path in code if path.suffix in (".py", ".c", ".json", ".yaml")]
    inherited = [
        *(os.getuid(), os.getgid(), os.getgroups(), str(Path.cwd()), umask, sorted(os.environ.items())),
        *(resource.getrlimit(limit) for name, limit in vars(resource).items() if name.startswith("RLIMIT_")),
        *(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), sys.executable, sys.version),
        *((path, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in stamps),
    ]
    return f"\0bkdsnn-{hashlib.sha256(repr(inherited).encode()).hexdigest()}"


def connected(name: str) -> socket.socket:
    """Return a connection to the server at an address, which is started if there is none."""
    for _ in range(TRIES):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(name)
        except ConnectionRefusedError:
            connection.close()
            if not _started(name):
                time.sleep(PAUSE)
        else:
            return _own(connection)
    raise ConnectionRefusedError("nothing listens at its address")


def _started(name: str) -> bool:
    """Start the server with a socket that listens already; return False if another process has the address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(name)
        except OSError:
            return False
        listener.listen()
        command = [sys.executable, "-m", "bkdsnn.cli.preloaded", str(listener.fileno()), os.environ[WORKFLOW]]
        null, passed = subprocess.DEVNULL, [listener.fileno()]
        subprocess.Popen(command, stdin=null, stdout=null, pass_fds=passed, start_new_session=True)
    return True


def _own(connection: socket.socket) -> socket.socket:
    """Return the connection if its other end belongs to the same user; else close it and raise `PermissionError`."""
    about = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if (user := struct.unpack("3i", about)[1]) != os.getuid():
        connection.close()
        raise PermissionError(f"user {user} has its address")
    return connection


def followed(connection: socket.socket, arguments: list[str]) -> int:
    """Send a command, pass signals on to it until it ends, and return its wait status.

    Raises `OSError` if the server ends before.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # no signal overtakes the command
    listened = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, functools.partial(_pass_on, connection)) for number in listened}
    try:
        socket.send_fds(connection, [json.dumps(arguments).encode()], [0, 1, 2])
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        status = connection.recv(LARGEST)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    if not status:
        raise ConnectionResetError("it has ended")
    return int(status)


def _pass_on(connection: socket.socket, number: int, frame: object) -> None:
    """Pass a signal on; Ctrl-Z, which stops no process outside of a terminal's session, as SIGSTOP."""
    stop = number == signal.SIGTSTP
    with contextlib.suppress(OSError):
        connection.send(bytes([signal.SIGSTOP if stop else number]))
    if stop:
        os.kill(os.getpid(), signal.SIGSTOP)


def unused_mb() -> float:
    """Return how much of the files that its server has in memory this process has not used itself, MiB.

    A fork maps such pages only when it uses them; a process that imports everything itself has all of them.
    """
    return max(0.0, _taken_over_mb - _files_mb()) if _taken_over_mb else 0.0


def _files_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[2]) * resource.getpagesize() / 2**20


def end_as(status: int) -> int:
    """Return the exit code of a wait status; if it tells of a signal, end this process by the same."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command's own core file stays the only one
        with contextlib.suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


class ForkServer:
    """Waits on a `listener` for commands, and forks for each. It has one thread, and no GPU is initialised in it.

    The children are in the server's session, which has no terminal: Ctrl-C reaches them through their clients alone.
    """

    def __init__(self, listener: socket.socket, workflow: int) -> None:
        """Begin to look after a Snakemake, given by its process ID; `ProcessLookupError` if it has ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # none ends the server, none is lost to a new child
        self._events, self._libc = selectors.DefaultSelector(), ctypes.CDLL(None)
        self._watch(listener, lambda: self._accept(listener))
        gone = io.FileIO(os.pidfd_open(workflow))
        self._watch(gone, lambda: self._forget(listener, gone))

    def serve(self, prepare: Callable[[list[str]], object]) -> list[str]:
        """Fork for each command, after `prepare(arguments)`; return the arguments in each child, but never here.

        Raises `SystemExit` when the Snakemake and the last command have ended.
        """
        self._prepare = prepare
        while self._events.get_map():
            happened, _ = self._events.select()[0]  # one at a time, because it may make others obsolete
            if (arguments := happened.data()) is not None:
                return arguments
        raise SystemExit(0)

    def _watch(self, file: socket.socket | io.FileIO, follow: Follow) -> None:
        self._events.register(file, selectors.EVENT_READ, follow)

    def _forget(self, *files: socket.socket | io.FileIO) -> None:
        for file in files:
            with contextlib.suppress(KeyError, ValueError):  # forgotten already
                self._events.unregister(file)
            file.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = _own(listener.accept()[0])
            self._watch(connection, lambda: self._begin(connection))

    def _begin(self, connection: socket.socket) -> list[str] | None:
        """Fork for the command that a client sends; return its arguments in the child."""
        try:
            request, streams, *_ = socket.recv_fds(connection, LARGEST, 3)
            arguments: list[str] = json.loads(request)
        except (OSError, ValueError):  # the client has ended
            self._forget(connection)
            return None
        self._prepare(arguments)
        server, files = os.getpid(), _files_mb()
        try:
            process = os.fork()
        except OSError:  # memory or processes are used up: the client goes on by itself
            self._forget(connection)
        else:
            if not process:
                self._become_child(server, files, streams)
                return arguments
            ended = io.FileIO(os.pidfd_open(process))
            self._watch(ended, lambda: self._report(connection, process, ended))
            self._events.modify(connection, selectors.EVENT_READ, lambda: self._signal(connection, ended))
        for stream in streams:
            os.close(stream)
        return None

    def _signal(self, connection: socket.socket, child: io.FileIO) -> None:
        """Pass on the signal that a client has sent; kill the command of a client that has ended."""
        number = b""
        with contextlib.suppress(OSError):
            number = connection.recv(1)
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(child.fileno(), number[0] if number else signal.SIGKILL)
        if not number:
            self._forget(connection)

    def _report(self, connection: socket.socket, process: int, ended: io.FileIO) -> None:
        """Tell the client how its command ended."""
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(OSError):  # the client has ended
            connection.send(str(status).encode())
        self._forget(connection, ended)

    def _become_child(self, server: int, files: float, streams: list[int]) -> None:
        """Turn this new process into what its client would have been."""
        global _taken_over_mb
        _taken_over_mb = files
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os.kill(os.getpid(), signal.SIGKILL)  # the server ended before it could be said to end with it
        for key in self._events.get_map().values():
            key.fileobj.close()  # type: ignore[union-attr]
        self._events.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
