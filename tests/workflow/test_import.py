"""Runs of another machine are imported, and Snakemake then has only the others to make."""

import os
import subprocess
import sys
import time

import pytest
from calls import environment, jobs, snakemake

from bkdsnn.config import paper

pytestmark = pytest.mark.workflow

SMOKE = ("--config", "scale=smoke")
STUDENT = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0]
RUNS = f"results/smoke/runs/{STUDENT.name}/metrics.json"
DATA = f"results/smoke/data/{STUDENT.dataset.name}.json"


def bkdsnn(folder, *arguments):
    command = [sys.executable, "-m", "bkdsnn", *map(str, arguments), "--scale", "smoke"]
    return subprocess.run(command, cwd=folder, env=environment(), text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another machine, where a student and its teacher were trained an hour ago."""
    folder = tmp_path_factory.mktemp("other")
    ended = snakemake(folder, "--cores", "1", RUNS, *SMOKE)
    assert ended.returncode == 0, ended.stdout
    hour_ago = time.time() - 3600
    for path in (folder / "results" / "smoke" / "runs").rglob("*"):
        os.utime(path, (hour_ago, hour_ago))
    return folder / "results" / "smoke" / "runs"


def test_imported_runs_are_not_made_again(other, tmp_path):
    assert snakemake(tmp_path, "--cores", "1", DATA, *SMOKE).returncode == 0
    before = jobs(snakemake(tmp_path, "--dry-run", "table2a", *SMOKE).stdout)
    ended = bkdsnn(tmp_path, "import", other)
    assert (ended.returncode, ended.stderr.count(": imported")) == (0, 2), ended.stderr
    left = jobs(snakemake(tmp_path, "--dry-run", "table2a", *SMOKE).stdout)
    assert left == before | {"student": before["student"] - 1, "teacher": before["teacher"] - 1}
    assert jobs(snakemake(tmp_path, "--dry-run", RUNS, *SMOKE).stdout) == {}


def test_runs_stay_as_imported_when_the_data_come_later(other, tmp_path):
    ended = bkdsnn(tmp_path, "import", other)
    assert ended.returncode == 0 and f"absent here: {DATA}" in ended.stderr
    assert jobs(snakemake(tmp_path, "--cores", "1", DATA, *SMOKE).stdout) == {"dataset": 1}
    assert jobs(snakemake(tmp_path, "--dry-run", RUNS, *SMOKE).stdout) == {}


def test_a_refused_run_is_told_in_one_line_and_the_code_is_1(other, tmp_path):
    (tmp_path / "copy" / STUDENT.name).mkdir(parents=True)
    (tmp_path / "copy" / STUDENT.name / "metrics.json").write_bytes((other.parents[2] / RUNS).read_bytes())
    ended = bkdsnn(tmp_path, "import", tmp_path / "copy")
    told = ended.stderr.splitlines()
    assert ended.returncode == 1 and len(told) == 2, ended.stderr
    assert told[0].startswith(f"refused {STUDENT.name}: ") and told[1].endswith(
        "1 of 1 runs refused; the reasons are above"
    )
    assert not (tmp_path / "results" / "smoke" / "runs").exists()
