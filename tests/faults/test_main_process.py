"""Whatever ends the main Snakemake process, and whenever: the same command goes on, and the bits are the same."""

import contextlib
import itertools
import os
import random
import signal
import time

import pytest
from calls import jobs, repository, snakemake, started
from small_table import PATIENCE, SMALL_TABLE, in_training, runs_of_small_table, wait_for, with_small_table

from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

pytestmark = pytest.mark.workflow
KILLS = max(2, int(os.environ.get("BKDSNN_KILLS", "8")) // 4)
EPOCHS = 60
CALL = ("--cores", "2", *SMALL_TABLE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository with table 9z."""
    return with_small_table(repository(tmp_path_factory.mktemp("clone") / "clone"), EPOCHS)


@pytest.fixture(scope="module")
def quiet(clone, tmp_path_factory):
    """Where nothing disturbed the table."""
    folder = tmp_path_factory.mktemp("quiet")
    ended = snakemake(folder, *CALL, root=clone)
    assert ended.returncode == 0, ended.stdout
    return folder


@pytest.fixture
def runs(clone, tmp_path):
    """The folders of the three runs: the student alone, the teacher, the student that it teaches."""
    return [RunFolder(tmp_path / "here/results/smoke/runs", spec) for spec in runs_of_small_table(clone)]


def test_the_table_comes_out_right_however_often_the_main_process_is_ended(clone, quiet, runs, tmp_path):
    moments = random.Random(0)
    for number in itertools.islice(itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]), KILLS):
        with started(tmp_path / "here", *CALL, root=clone) as (main, _):
            time.sleep(moments.uniform(1, 8))
            main.send_signal(number)
            main.wait(PATIENCE)
        if number == signal.SIGKILL:
            unlock(clone, tmp_path)
        else:
            assert not any(ledger.under_way(run.lock) for run in runs)
    finish(clone, quiet, runs, tmp_path)


@pytest.fixture
def orphans(clone, runs, tmp_path):
    """Two trainings that stand still, and whose main process was killed."""
    with started(tmp_path / "here", *CALL, root=clone) as (main, _):
        stopped = [in_training(run).pid for run in runs[:2]]
        signal_all(stopped, signal.SIGSTOP)
        main.kill()
    unlock(clone, tmp_path)
    yield stopped
    for process in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def signal_all(processes, number):
    for process in processes:
        os.kill(process, number)


def test_what_ended_without_its_main_process_is_not_trained_again(clone, quiet, runs, tmp_path, orphans):
    signal_all(orphans, signal.SIGCONT)
    wait_for(lambda: all(run.finished for run in runs[:2]))
    assert jobs(finish(clone, quiet, runs, tmp_path)) == {"student": 1, "table": 1, "table9z": 1}
    assert all([one.event for one in ledger.read(run.ledger)] == ["finished"] for run in runs)


def test_what_goes_on_without_its_main_process_is_waited_for(clone, quiet, runs, tmp_path, orphans):
    with started(tmp_path / "here", *CALL, root=clone) as (main, output):
        wait_for(lambda: output.read_text().count("is writing this run; waiting for it") == 2)
        signal_all(orphans, signal.SIGCONT)
        assert main.wait(PATIENCE) == 0
    finish(clone, quiet, runs, tmp_path)
    assert all([one.event for one in ledger.read(run.ledger)] == ["finished"] for run in runs)


def test_retries_go_on_after_a_slice_and_refuse_after_a_crash_without_progress(clone, quiet, runs, tmp_path):
    alone, teacher, taught = runs
    with started(tmp_path / "here", *CALL, "--retries", "3", root=clone) as (main, output):
        os.kill(in_training(alone).pid, signal.SIGTERM)
        os.kill(in_training(teacher).pid, signal.SIGKILL)
        assert main.wait(PATIENCE) == 1
    assert "attempt 1 saved nothing after its beginning (it was killed)" in output.read_text()
    assert [one.event for one in ledger.read(alone.ledger)] == ["interrupted", "finished"]
    assert [one.event for one in ledger.read(teacher.ledger)] == ["began"] and not taught.path.exists()
    assert jobs(finish(clone, quiet, runs, tmp_path)) == {"teacher": 1, "student": 1, "table": 1, "table9z": 1}


def unlock(clone, tmp_path):
    """Tell Snakemake that the one that held the folder is gone."""
    assert snakemake(tmp_path / "here", "--unlock", *SMALL_TABLE, root=clone).returncode == 0


def finish(clone, quiet, runs, tmp_path):
    """Let a last call end the work, which must be as if nothing had happened; return what it printed."""
    ended = snakemake(tmp_path / "here", *CALL, root=clone)
    assert ended.returncode == 0, ended.stdout
    for file in ("tables/table9z.csv", *(f"runs/{run.spec.name}/{name}" for run in runs for name in ARTEFACTS)):
        ours, theirs = (place / "results/smoke" / file for place in (tmp_path / "here", quiet))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not any((run.path / "checkpoints").exists() for run in runs)
    assert "Nothing to be done" in snakemake(tmp_path / "here", *CALL, root=clone).stdout
    return ended.stdout


ARTEFACTS = ("weights.safetensors", "predictions.npz")
