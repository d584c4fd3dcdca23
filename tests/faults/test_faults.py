"""Whatever ends a training, and whatever happens to its checkpoint, the final bits are those of a quiet run.

`make faults` does it 50 times, `make test` less often (BKDSNN_KILLS).
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
from attempt import attempt
from small_table import wait_for
from training_example import assert_equal, changed, run

from bkdsnn import data
from bkdsnn.config import paper
from bkdsnn.core.errors import RESUMABLE
from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

KILLS = int(os.environ.get("BKDSNN_KILLS", "8"))
EPOCHS = 12
SPEC = changed(paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0], epochs=EPOCHS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with data and the teacher."""
    results = tmp_path_factory.mktemp("prepared")
    data.prepare(SPEC.dataset, None, results / "data" / f"{SPEC.dataset.name}.json")
    run(SPEC.teacher, results)
    return results


@pytest.fixture
def results(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "results")


@pytest.fixture
def folder(results):
    return RunFolder(results / "runs", SPEC)


@pytest.fixture(scope="module")
def start():
    """Start an attempt; one process imports everything once and forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attempt"])
    started = []

    def begin(results, largest=None):
        started.append(context.Process(target=attempt, args=(SPEC.model_dump_json(), results, largest)))
        started[-1].start()
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def quiet(prepared, tmp_path_factory, start):
    """The folder of the run that nothing disturbed."""
    results = shutil.copytree(prepared, tmp_path_factory.mktemp("quiet") / "results")
    process = start(results)
    process.join()
    assert process.exitcode == 0
    return RunFolder(results / "runs", SPEC).path


KILLED, REFUSED = -signal.SIGKILL, 1
OUTCOMES = {
    "killed": [KILLED],
    "killed_while_saving": [KILLED],
    "terminated": [-signal.SIGTERM, RESUMABLE],
    "truncated": [KILLED],
    "corrupted": [KILLED],
    "forbidden": [REFUSED],
}


class Faults:
    """What is done to a running attempt or to what it left; each draws its moment."""

    def __init__(self, folder, seconds, start):
        self.folder, self.seconds, self.start = folder, seconds, start
        self.random = random.Random(0)

    def killed(self, process):
        self.wait(process)
        process.kill()

    def terminated(self, process):
        self.wait(process)
        process.terminate()

    def killed_while_saving(self, process):
        self.wait(process)
        while process.is_alive() and not list(self.folder.checkpoint.parent.glob(".last.*")):
            pass
        process.kill()

    def truncated(self, process):
        self.killed(process)
        process.join()
        if self.folder.checkpoint.exists():
            os.truncate(self.folder.checkpoint, self.random.randrange(self.folder.checkpoint.stat().st_size))

    def corrupted(self, process):
        self.killed(process)
        process.join()
        if self.folder.checkpoint.exists():
            content = bytearray(self.folder.checkpoint.read_bytes())
            content[self.random.randrange(len(content) // 2, len(content))] ^= 0x10
            self.folder.checkpoint.write_bytes(content)

    def forbidden(self, process):
        self.wait(process)
        self.permit(0o500, 0o400)
        process.join()
        self.permit(0o700, 0o600)
        results = self.folder.runs.parent
        if process.exitcode == REFUSED:
            said = (results / "results.log").read_text().splitlines()[-1]
            assert f"error: cannot write {self.folder.path}" in said and "Permission denied" in said
        if self.folder.finished:  # just before: the next call removes what this one could not
            again = self.start(results)
            again.join()

    def permit(self, folders, files):
        for path in (self.folder.path, *self.folder.path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                path.chmod(folders if path.is_dir() else files)

    def wait(self, process):
        """Let training begin, then wait for part of the time that it takes."""
        while process.is_alive() and not self.folder.path.joinpath("history.jsonl").exists():
            time.sleep(0.001)
        process.join(self.random.uniform(0, self.seconds))


def test_kills_at_any_moment_leave_the_bits_of_a_quiet_run(quiet, results, folder, start):
    began = time.monotonic()
    uninterrupted(start(results), folder, quiet)
    faults = Faults(folder, 0.7 * (time.monotonic() - began), start)
    kinds = [faults.killed, faults.killed_while_saving, faults.terminated]
    kinds += [faults.truncated, faults.corrupted, faults.forbidden]
    done = collections.Counter()
    for kind in itertools.islice(itertools.cycle(kinds), KILLS):
        while not struck(kind, process := start(results)):
            uninterrupted(process, folder, quiet)
        done[kind.__name__] += 1
    uninterrupted(start(results), folder, quiet)
    print("\n", dict(done), f"in {time.monotonic() - began:.0f} s")


def struck(fault, process):
    """Whether the fault came before the attempt was over."""
    fault(process)
    process.join()
    assert process.exitcode in (0, *OUTCOMES[fault.__name__])
    return process.exitcode != 0


def uninterrupted(process, folder, quiet):
    """Wait for the end, which must be that of the quiet run, leave nothing else, and clear the ground for another."""
    process.join()
    assert process.exitcode == 0, (folder.path.parents[1] / "results.log").read_text()
    assert_equal(folder.path, quiet)
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in quiet.iterdir()}
    shutil.rmtree(folder.path)


def test_a_full_disk_stops_in_one_message_and_space_lets_it_go_on(quiet, results, folder, start):
    stopped = 0
    for largest in (100, 2_000, 10_000, 15_000, 20_000, 40_000):
        process = start(results, largest)
        process.join()
        if process.exitcode == 1:
            stopped += 1
            assert "error: cannot write" in (results / "results.log").read_text().splitlines()[-1]
            assert not folder.finished
    assert stopped > 1
    if not folder.finished:
        start(results).join()
    assert_equal(folder.path, quiet)


@pytest.fixture
def two_writers(results, folder, start):
    """A first attempt that stands still, and a second that waits for it."""
    first = start(results)
    wait_for(folder.ledger.exists)
    os.kill(first.pid, signal.SIGSTOP)
    second = start(results)
    waits = f"pid {first.pid}) is writing this run; waiting for it"
    wait_for(lambda: waits in (results / "results.log").read_text())
    return first, second


def test_of_two_writers_the_second_waits_and_finds_the_run_finished(quiet, results, folder, two_writers):
    first, second = two_writers
    os.kill(first.pid, signal.SIGCONT)
    second.join()
    assert second.exitcode == 0
    assert f"{SPEC.name}: already finished" in (results / "results.log").read_text()
    assert [one.event for one in ledger.read(folder.ledger)] == ["finished"]
    uninterrupted(first, folder, quiet)


def test_the_second_writer_takes_over_from_a_killed_first(quiet, folder, two_writers):
    first, second = two_writers
    first.kill()
    uninterrupted(second, folder, quiet)
    assert [one.event for one in ledger.read(folder.ledger)][1:] == ["finished"]
