"""A run of two processes as a user starts it: by the workflow, by hand, by torchrun, ended and gone on with."""

import os
import signal
import subprocess
import sys

import pytest
from calls import environment, repository, snakemake
from small_table import in_training, runs_of_small_table, with_small_table

from bkdsnn.core.errors import RESUMABLE
from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

pytestmark = pytest.mark.workflow
SMOKE = ("--config", "scale=smoke")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository with table 9z, whose first two runs ask for two processes."""
    return with_small_table(repository(tmp_path_factory.mktemp("clone") / "clone"), 40, processes=2)


@pytest.fixture(scope="module")
def spec(clone):
    """The student alone."""
    return runs_of_small_table(clone)[0]


@pytest.fixture(scope="module")
def made(clone, spec, tmp_path_factory):
    """The run as the workflow makes it, with the data."""
    folder = tmp_path_factory.mktemp("made")
    ended = snakemake(folder, "--cores", "2", f"results/smoke/runs/{spec.name}/metrics.json", *SMOKE, root=clone)
    assert ended.returncode == 0, ended.stdout
    assert f"{spec.name}: on 2 x " in ended.stdout and "mem_mb=4000" in dry_run(clone, folder, spec)
    return RunFolder(folder / "results/smoke/runs", spec)


def dry_run(clone, folder, spec):
    again = ("--dry-run", "--forcerun", "student", "--quiet", "progress")
    return snakemake(folder, f"results/smoke/runs/{spec.name}/metrics.json", *again, *SMOKE, root=clone).stdout


@pytest.fixture
def here(made, tmp_path):
    """Another place with the same data."""
    source = made.runs.parent / "data"
    (tmp_path / "results" / "smoke").mkdir(parents=True)
    (tmp_path / "results" / "smoke" / "data").symlink_to(source)
    return RunFolder(tmp_path / "results/smoke/runs", made.spec)


def training(here, clone, *launcher):
    line = [sys.executable, *launcher, "-m", "bkdsnn", "train", here.spec.name, "--scale", "smoke"]
    place = {"cwd": here.runs.parents[2], "env": environment(clone) | {"OMP_NUM_THREADS": "1"}}
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, **place)


def assert_same(one, other):
    for name in ("weights.safetensors", "predictions.npz"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_it_saves_on_sigterm_and_goes_on_bit_by_bit(here, clone, made):
    first = training(here, clone)
    in_training(here)
    first.send_signal(signal.SIGTERM)
    said = first.communicate()[1]
    assert first.returncode == RESUMABLE and "run again to continue" in said and "Traceback" not in said
    second = training(here, clone)
    assert "Traceback" not in second.communicate()[1] and second.returncode == 0
    assert [one.event for one in ledger.read(here.ledger)] == ["interrupted", "finished"]
    assert_same(here, made)


def test_torchrun_starts_it_as_well(here, clone, made):
    process = training(here, clone, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    assert process.communicate() and process.returncode == 0
    assert_same(here, made)


def test_what_is_wrong_is_told_once(here, clone):
    (here.runs.parent / "data").unlink()
    process = training(here, clone)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert [line for line in said if line.startswith("error: the data manifest")] == said[-1:]


def test_a_process_that_is_killed_ends_the_others(here, clone):
    process = training(here, clone)
    main = in_training(here).pid
    listing = ["pgrep", "-P", str(process.pid)]
    others = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    os.kill(next(int(one) for one in others if int(one) != main), signal.SIGKILL)
    process.communicate()
    assert process.returncode not in (0, RESUMABLE)
    assert not here.finished and not ledger.under_way(here.lock)
