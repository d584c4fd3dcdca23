"""The workflow on a real SLURM of one node, with the profile that users get."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import slurm
import yaml
from calls import environment, repository, snakemake

from bkdsnn import ledger, paper
from bkdsnn.runs import RunFolder

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing()),
]
WITHOUT_ACCOUNTING = ("--slurm-no-account", "--slurm-status-command", "squeue")
SOON = ("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10")
LONG = 150  # epochs of a run that is disturbed
PATIENCE = 300  # seconds
TABLE = ("table9z", "--config", "scale=smoke")


@pytest.fixture
def clone(tmp_path):
    """The repository with a table 9z: a teacher and a student alone that take a while, and a quick student."""
    root = repository(tmp_path / "clone")
    table = yaml.safe_load((root / "config" / "paper" / "table2c.yaml").read_text()) | {"number": "9z"}
    table["columns"] = table["columns"][:1]
    rows = {row["method"]: row for row in table["rows"] if row["method"] in ("sew-resnet", "ann", "bkdsnn")}
    rows["bkdsnn"]["delta_against"] = ["sew-resnet"]
    rows["bkdsnn"]["columns"] = {"recipes": {"student": "sew-cifar", "teacher": "ann-imagenet"}}
    table["rows"] = [{**row, "paper": row["paper"][:1]} for row in rows.values()]
    (root / "config" / "paper" / "table9z.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    scale = root / "config" / "scales" / "smoke.yaml"
    content = yaml.safe_load(scale.read_text())
    content["recipes"] |= {name: {"epochs": LONG} for name in ("sew-imagenet", "ann-imagenet")}
    scale.write_text(yaml.safe_dump(content, sort_keys=False))
    return root


@pytest.fixture
def cluster():
    """A SLURM; sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm.cluster(Path(folder)) as started:
        yield started


@pytest.fixture
def runs(clone):
    """The three runs of the table: the student alone, its teacher, the student that it teaches."""
    config = clone / "config"
    cells = paper.Expansion("smoke", config=config).plan(paper.load_table("table9z", config)).cells
    return [cell.runs[0] for cell in cells]


def test_a_table_comes_out_right_whatever_the_cluster_does_to_its_jobs(clone, cluster, runs, tmp_path, monkeypatch):
    for variable, value in {**cluster.environment, "PYTHONPATH": str(clone)}.items():
        monkeypatch.setenv(variable, value)
    alone, teacher, _ = (RunFolder(tmp_path / "there/results/smoke/runs", spec) for spec in runs)
    profile = ("--profile", str(clone / "profiles" / "slurm"), *WITHOUT_ACCOUNTING, *SOON)
    with submitted(clone, tmp_path / "there", *TABLE, "slice_minutes=1", *profile) as (main, output):
        halt(teacher, signal.SIGSTOP)  # hangs until its time limit
        requeue(cluster, alone)
        halt(alone, signal.SIGTERM)  # saves, and ends with the reserved exit code
        assert main.wait(PATIENCE) == 0, output.read_text()
    assert [one.event for one in ledger.read(teacher.ledger)] == ["interrupted", "finished"]
    assert [one.event for one in ledger.read(alone.ledger)] == ["interrupted", "interrupted", "finished"]
    here = snakemake(tmp_path / "here", "--cores", "2", *TABLE, root=clone)
    assert here.returncode == 0, here.stdout
    for file in ("tables/table9z.csv", *(f"runs/{spec.name}/weights.safetensors" for spec in runs)):
        ours, theirs = (tmp_path / place / "results/smoke" / file for place in ("here", "there"))
        assert ours.read_bytes() == theirs.read_bytes()


@contextlib.contextmanager
def submitted(clone, folder, *arguments):
    """Start snakemake; yields the process and the file with what it prints."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), *arguments]
    output = folder.with_suffix(".txt")
    with output.open("w") as stream:
        process = subprocess.Popen(command, cwd=clone, env=environment(), stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield process, output
    finally:
        process.terminate()
        process.wait()


def halt(folder, number):
    """Send a signal to the training of a run, a few epochs into an attempt."""
    os.kill(in_training(folder).pid, number)


def requeue(cluster, folder):
    """Have the job of a run preempted, a few epochs into an attempt."""
    in_training(folder)
    job = cluster.job(folder.spec.name)
    cluster("scontrol", "requeue", job)
    wait_for(lambda: ended(folder))
    cluster("scontrol", "update", f"JobId={job}", "StartTime=now")


def in_training(folder):
    """The running attempt at a run, once it has trained for a few epochs."""

    def found():
        attempts = ledger.read(folder.ledger)
        epochs = len(history.read_text().splitlines()) if (history := folder.path / "history.jsonl").exists() else 0
        running = attempts and attempts[-1].event in ("began", "saved")
        return attempts[-1] if running and epochs >= 3 + (attempts[-1].origin or (0, 0))[0] else None

    return wait_for(found)


def ended(folder):
    """Whether the last attempt is over."""
    return ledger.read(folder.ledger)[-1].event == "interrupted" and not ledger.under_way(folder.lock)


def wait_for(condition):
    """Wait until the condition holds, and return its value."""
    limit = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.1)
    return value
