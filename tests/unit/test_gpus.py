"""Locks of GPUs between real processes; the GPUs are names only, so that no GPU is needed."""

import logging
import os
import select
import subprocess
import sys
import time
from unittest import mock

import pytest

from bkdsnn.config.settings import Settings
from bkdsnn.core.errors import UserError
from bkdsnn.machine import gpus

IMPORTS = "import sys; from functools import partial; from bkdsnn.machine import gpus; from pathlib import Path; "
HOLD = f"{IMPORTS}print(*gpus.claim(sys.argv[2:-1], int(sys.argv[-1]), Path(sys.argv[1])), flush=True); "
HOLD += "sys.stdin.read()"


@pytest.fixture
def hold(tmp_path):
    """Start a process that claims GPUs and holds them until its input ends."""
    started = []

    def start(*wanted, count=1, code=HOLD, share=1):
        line = [sys.executable, "-c", code, str(tmp_path / "locks"), *wanted, str(count)]
        with mock.patch.dict(os.environ):
            Settings.read({"scale": "smoke", "gpu_share": share}).export()
            started.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        with process:
            pass


def waits(process):
    """Whether a process has claimed nothing after a while."""
    time.sleep(1.0)
    return process.poll() is None and not has_said(process)


def has_said(process):
    return bool(select.select([process.stdout], [], [], 0)[0])


def test_each_process_gets_a_gpu_of_its_own(hold):
    first, second = hold("0", "1"), hold("0", "1")
    assert {first.stdout.readline(), second.stdout.readline()} == {"0\n", "1\n"}


@pytest.mark.parametrize("how", ["end", "kill"])
def test_one_gpu_is_never_shared_and_free_once_its_process_is_gone(hold, how):
    first = hold("0")
    assert first.stdout.readline() == "0\n"
    second = hold("0")
    assert waits(second)
    first.kill() if how == "kill" else first.stdin.close()
    assert second.stdout.readline() == "0\n"


AGAIN = f"{IMPORTS}claim = partial(gpus.claim, folder=Path(sys.argv[1])); "
AGAIN += "print(claim(['0'], 1), claim(['1', '0'], 1), claim(['1', '0'], 2), claim(['0', '1'], 1), flush=True); "
AGAIN += "sys.stdin.read()"


def test_a_process_that_holds_a_gpu_gets_it_again(hold):
    first = hold(code=AGAIN)
    assert first.stdout.readline() == "['0'] ['0'] ['0', '1'] ['0']\n"
    assert waits(second := hold("0", "1"))
    first.stdin.close()
    assert second.stdout.readline() == "0\n"


PARENT = f"{IMPORTS}gpus.claim(['0'], 1, Path(sys.argv[1])); code = {HOLD!r};"
PARENT += "line = [sys.executable, '-c', code, sys.argv[1], '0', '1'];"
PARENT += "import os, subprocess; environment = os.environ | {gpus.HELD: ','.join(gpus.held())};"
PARENT += "subprocess.run(line, check=True, env=environment, pass_fds=gpus.held_files())"


def test_a_process_that_another_runs_computes_on_its_gpu(hold):
    parent = hold(code=PARENT)
    assert parent.stdout.readline() == "0\n"  # said by the one that it runs, which inherits its input, too
    assert waits(other := hold("0"))
    parent.stdin.close()
    assert parent.wait() == 0 and other.stdout.readline() == "0\n"


def test_a_shared_gpu_is_for_as_many_processes_as_the_setting_says(hold):
    first, second = hold("0", share=2), hold("0", share=2)
    assert first.stdout.readline() == second.stdout.readline() == "0\n"
    assert waits(third := hold("0", share=2))
    first.stdin.close()
    assert third.stdout.readline() == "0\n"


def test_of_shared_gpus_the_emptiest_is_taken_and_one_process_never_gets_one_twice(hold):
    for free in ("0", "1"):
        assert hold("0", "1", share=2).stdout.readline() == f"{free}\n"
    both = hold("0", "1", count=2, share=2)
    assert both.stdout.readline() == "0 1\n"
    assert waits(hold("0", "1", share=2))


@pytest.mark.parametrize("found", ["0", "two", "-1"])
def test_a_share_that_is_no_number_of_processes_is_named(tmp_path, monkeypatch, found):
    monkeypatch.setenv("BKDSNN_GPU_SHARE", found)
    with pytest.raises(UserError, match=f"BKDSNN_GPU_SHARE is '{found}', expected"):
        gpus.claim(["0"], 1, tmp_path)


def test_all_or_none_are_taken(hold):
    first = hold("0")
    assert first.stdout.readline() == "0\n"
    both = hold("0", "1", count=2)
    assert waits(both)
    one = hold("1")  # not kept by the one that waits for two
    assert one.stdout.readline() == "1\n"
    first.stdin.close()
    one.stdin.close()
    assert both.stdout.readline() == "0 1\n"


def test_waiting_is_told_once(hold, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(gpus, "POLL_SECONDS", 0.05)
    first = hold("0")
    assert first.stdout.readline() == "0\n"

    class Enough(Exception):
        pass

    rounds = iter(range(4))

    def sleep(_):
        if next(rounds) == 3:
            raise Enough

    monkeypatch.setattr(gpus.time, "sleep", sleep)
    with caplog.at_level(logging.INFO), pytest.raises(Enough):
        gpus.claim(["0"], 1, tmp_path / "locks")
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "waiting for 1 of 1 GPUs: other processes use them"
    ]


def test_names_are_those_of_the_machine():
    assert gpus.visible(2, {}) == ["0", "1"]
    assert gpus.visible(2, {"CUDA_VISIBLE_DEVICES": "3,5"}) == ["3", "5"]
    assert gpus.visible(1, {"CUDA_VISIBLE_DEVICES": "GPU-1b2c"}) == ["GPU-1b2c"]


def test_a_slurm_job_has_locks_of_its_own():
    assert gpus.lock_folder({}) != gpus.lock_folder({"SLURM_JOB_ID": "7"}) != gpus.lock_folder({"SLURM_JOB_ID": "8"})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/locks/0\.lock"):
        gpus.claim(["0"], 1, tmp_path / "file" / "locks")
