"""What is done by a child of the fork server is as if the client had done it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import fork_server_example
import pytest
from training_example import assert_equal

from bkdsnn import data
from bkdsnn.config import paper
from bkdsnn.machine import fork_server
from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

PATIENCE = 120  # seconds
SPEC = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0].teacher
SAY_READY = "import os, signal, sys, time; print(os.getpid(), flush=True);"
WAIT = f"{SAY_READY} time.sleep({PATIENCE})"
WITH_SIGNALS = "signal.signal({0}, lambda number, _: sys.exit(number + 60));"


@contextlib.contextmanager
def process(*command, **options):
    with subprocess.Popen(command, text=True, **options) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture
def workflow():
    """A process in the place of Snakemake: servers end when it ends."""
    with process("sleep", str(10 * PATIENCE)) as started:
        yield started


class Example:
    """The server of `fork_server_example`."""

    def __init__(self, process, name):
        self.process, self.name = process, name

    def client(self, code):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return process(sys.executable, fork_server_example.__file__, "client", self.name, code, **pipes)

    @contextlib.contextmanager
    def running(self, code=WAIT):
        """Yield a client and the process ID of its command, which has begun."""
        with self.client(code) as client:
            child = int(client.stdout.readline())
            try:
                yield client, child
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


@pytest.fixture
def server(workflow):
    name = f"bkdsnn-test-{uuid.uuid4().hex}"
    command = (sys.executable, fork_server_example.__file__, "server", name, str(workflow.pid))
    with process(*command, stdout=subprocess.PIPE) as started:
        assert started.stdout.readline() == "listening\n"
        yield Example(started, name)


def state(pid):
    """The state of a process by one letter, such as S that sleeps or T that is stopped; None if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        return None if found in "ZX" else found


def wait_until(condition):
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_client_exits_with_the_code_of_its_command(server, code):
    with server.client(f"raise SystemExit({code})") as client:
        assert client.wait(PATIENCE) == code


def test_an_exception_has_its_traceback_in_the_clients_stderr(server):
    with server.client("raise ValueError('a bug')") as client:
        _, said = client.communicate(timeout=PATIENCE)
    assert client.returncode == 1 and said.endswith("ValueError: a bug\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_client_ends_by_the_signal_that_ended_its_command(server, number):
    with server.client(f"import os; os.kill(os.getpid(), {int(number)})") as client:
        assert client.wait(PATIENCE) == -number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_the_client_reaches_its_command(server, number):
    with server.running(f"import signal, sys; {WITH_SIGNALS.format(int(number))} {WAIT}") as (client, _):
        client.send_signal(number)
        assert client.wait(PATIENCE) == number + 60


def test_ctrl_c_and_an_unhandled_signal_do_what_they_do_to_any_python(server):
    with server.running() as (client, _):
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=PATIENCE)
        assert said.endswith("KeyboardInterrupt\n") and client.returncode == -signal.SIGINT
    with server.running() as (client, _):
        client.send_signal(signal.SIGTERM)
        assert client.wait(PATIENCE) == -signal.SIGTERM


def test_a_signal_that_the_client_ignores_is_not_passed_on(server):
    ignoring = (
        f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); import fork_server_example as it;"
        f"raise SystemExit(it.call({server.name!r}, {WITH_SIGNALS.format(10) + WAIT!r}))"
    )
    ignoring = ignoring.replace("signal.signal(10", "import signal, sys; signal.signal(10")
    folder = Path(fork_server_example.__file__).parent
    with process(sys.executable, "-c", ignoring, stdout=subprocess.PIPE, cwd=folder) as client:
        client.stdout.readline()
        client.send_signal(signal.SIGHUP)
        client.send_signal(signal.SIGUSR1)
        assert client.wait(PATIENCE) == 70


def test_ctrl_z_stops_client_and_command_until_they_are_continued(server):
    with server.running(f"{SAY_READY} time.sleep(0.5); sys.exit(5)") as (client, child):
        client.send_signal(signal.SIGTSTP)
        wait_until(lambda: state(client.pid) == state(child) == "T")
        client.send_signal(signal.SIGCONT)
        assert client.wait(PATIENCE) == 5


def test_a_command_ends_with_a_killed_client_and_others_go_on(server):
    with server.running() as (client, child), server.running() as (_, other):
        client.kill()
        wait_until(lambda: state(child) is None)
        assert state(other) and server.process.poll() is None


def test_a_command_ends_with_a_killed_server_and_the_client_is_told(server):
    with server.running() as (client, child):
        server.process.kill()
        _, said = client.communicate(timeout=PATIENCE)
        assert client.returncode == 1 and said.endswith("ConnectionResetError: it has ended\n")
        wait_until(lambda: state(child) is None)


def test_signals_to_the_server_do_not_end_it(server):
    for number in fork_server.PASSED_ON - {signal.SIGTSTP}:
        server.process.send_signal(number)
    with server.client("raise SystemExit(3)") as client:
        assert client.wait(PATIENCE) == 3


def test_the_server_ends_with_its_workflow_after_the_last_command(server, workflow):
    with server.running(f"{SAY_READY} sys.stdin.read(); sys.exit(4)") as (client, _):
        workflow.kill()
        wait_until(lambda: refused(server.name))
        assert server.process.poll() is None
        client.stdin.close()
        assert client.wait(PATIENCE) == 4
    assert server.process.wait(PATIENCE) == 0


def refused(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        return connection.connect_ex(f"\0{name}") != 0


def test_the_command_has_the_clients_streams_and_no_other_descriptors(server):
    code = "import os, sys; print(os.listdir('/proc/self/fd')); print(sys.stdin.read().upper(), file=sys.stderr)"
    with server.client(code) as client:
        out, error = client.communicate("what the client is given", PATIENCE)
    assert error == "WHAT THE CLIENT IS GIVEN\n"
    assert sorted(eval(out))[:3] == ["0", "1", "2"] and len(eval(out)) == 4  # the fourth lists the folder


def test_a_client_that_says_nothing_disturbs_nobody(server):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(f"\0{server.name}")
        with server.client("raise SystemExit(3)") as client:
            assert client.wait(PATIENCE) == 3
    with server.client("raise SystemExit(3)") as client:
        assert client.wait(PATIENCE) == 3


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_the_server_closes_the_connection_of_another_user(server):
    if not (child := os.fork()):
        answer = None
        with contextlib.suppress(ConnectionResetError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            os.setuid(65534)
            other.connect(f"\0{server.name}")
            answer = b""
            answer = other.recv(1)
        os._exit(answer != b"")
    assert os.waitpid(child, 0)[1] == 0
    with server.client("raise SystemExit(3)") as client:
        assert client.wait(PATIENCE) == 3


def test_a_peer_of_another_user_is_refused(monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with theirs, pytest.raises(PermissionError, match=f"user {user} has its address"):
        fork_server._own(ours)
    assert ours.fileno() == -1


def test_what_a_process_inherits_or_imports_has_an_address_of_its_own(monkeypatch, tmp_path):
    (tmp_path / "bkdsnn").mkdir()
    (tmp_path / "bkdsnn/code.py").write_text("old")
    monkeypatch.setattr(fork_server, "ROOT", tmp_path)
    found = [fork_server.address()]
    assert fork_server.address() == found[0]

    (tmp_path / "bkdsnn/code.pyc").write_text("compiled")
    assert fork_server.address() == found[0]
    (tmp_path / "bkdsnn/code.py").write_text("changed")
    found.append(fork_server.address())
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    found.append(fork_server.address())
    monkeypatch.chdir(tmp_path)
    found.append(fork_server.address())
    mask = os.umask(0o027)
    found.append(fork_server.address())
    assert os.umask(mask) == 0o027
    assert len(set(found)) == len(found)


def test_it_is_offered_to_jobs_without_a_gpu_unless_the_user_said_no(monkeypatch):
    monkeypatch.setenv(fork_server.WORKFLOW, "")
    fork_server.offer("cpu")
    assert os.environ[fork_server.WORKFLOW] == ""
    monkeypatch.delenv(fork_server.WORKFLOW)
    fork_server.offer("cuda")
    fork_server.offer("cuda:1")
    assert fork_server.WORKFLOW not in os.environ
    fork_server.offer("cpu")
    assert os.environ.pop(fork_server.WORKFLOW) == str(os.getpid())


def test_the_client_imports_little():
    probe = "import sys; import bkdsnn.machine.fork_server; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The results with a run that a process of its own has made."""
    results = tmp_path_factory.mktemp("alone") / "smoke"
    data.prepare(SPEC.dataset, None, results / "data" / f"{SPEC.dataset.name}.json")
    with training(results) as client:
        _, said = client.communicate(timeout=PATIENCE)
    assert client.returncode == 0, said
    return results


def training(results, workflow=None, *options):
    own = {fork_server.WORKFLOW: str(workflow.pid) if workflow else "", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "bkdsnn", "train", SPEC.name, "--scale", "smoke", "--results", str(results.parent))
    return process(*command, *options, env={**os.environ, **own}, stderr=subprocess.PIPE)


@pytest.fixture
def results(alone, tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke/data").symlink_to(alone / "data")
    return tmp_path / "smoke"


def last_attempt(results):
    return ledger.read(RunFolder(results / "runs", SPEC).ledger)[-1]


def test_a_served_run_is_that_of_a_process_of_its_own(alone, results, workflow):
    with training(results, workflow) as client:
        _, said = client.communicate(timeout=PATIENCE)
    assert client.returncode == 0 and "fork server" not in said, said
    assert_equal(results / "runs" / SPEC.name, alone / "runs" / SPEC.name)
    served, own = last_attempt(results), last_attempt(alone)
    assert (served.event, served.device) == ("finished", own.device)
    assert served.pid != client.pid
    assert served.peak_memory_mb == pytest.approx(own.peak_memory_mb, rel=0.25)

    with training(results, workflow, "--threads", "none") as client:
        _, said = client.communicate(timeout=PATIENCE)
    assert client.returncode == 2 and "argument --threads: invalid int value" in said


def test_a_client_goes_on_by_itself_if_the_server_is_killed(alone, results, workflow):
    run = RunFolder(results / "runs", SPEC)
    with training(results, workflow) as client:
        wait_until(run.ledger.exists)
        server = int(Path(f"/proc/{last_attempt(results).pid}/stat").read_text().rpartition(") ")[2].split()[1])
        os.kill(server, signal.SIGKILL)
        _, said = client.communicate(timeout=PATIENCE)
    assert client.returncode == 0 and "no fork server (it has ended); going on without it" in said, said
    assert_equal(run.path, alone / "runs" / SPEC.name)
    assert [one.event for one in ledger.read(run.ledger)] == ["began", "finished"]
    assert last_attempt(results).pid == client.pid
