"""The workflow on a real SLURM of one node, with the profile that users get."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import slurm
from calls import repository, snakemake, started
from small_table import PATIENCE, SMALL_TABLE, in_training, runs_of_small_table, wait_for, with_small_table

from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing()),
]
WITHOUT_ACCOUNTING = ("--slurm-no-account", "--slurm-status-command", "squeue")
SOON = ("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10")
LONG = 60  # epochs of a run that is disturbed; undisturbed it must end well within the time limit of its job


@pytest.fixture
def clone(tmp_path):
    """The repository with table 9z, whose first two runs take a while."""
    return with_small_table(repository(tmp_path / "clone"), LONG)


@pytest.fixture
def cluster(request):
    """A SLURM, with accounting if the test asks for it; sockets have short names."""
    accounting = getattr(request, "param", False)
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm.cluster(Path(folder), accounting) as made:
        yield made


@pytest.fixture
def user(cluster, monkeypatch):
    """Have this process know the cluster."""
    for variable, value in cluster.environment.items():
        monkeypatch.setenv(variable, value)


def test_a_table_comes_out_right_whatever_the_cluster_does_to_its_jobs(clone, cluster, user, tmp_path):
    runs = runs_of_small_table(clone)
    alone, teacher, _ = (RunFolder(tmp_path / "there/results/smoke/runs", spec) for spec in runs)
    profile = ("--profile", str(clone / "profiles" / "slurm"), *WITHOUT_ACCOUNTING, *SOON)
    gpu = ("--set-resources", "student:gpu=1")
    with started(tmp_path / "there", *SMALL_TABLE, "slice_minutes=2", *profile, *gpu, root=clone) as (main, output):
        halt(teacher, signal.SIGSTOP)  # hangs until its time limit
        requeue(cluster, alone)
        halt(alone, signal.SIGTERM)  # saves, and ends with the reserved exit code
        assert main.wait(2 * PATIENCE) == 0, output.read_text()
    assert [one.event for one in ledger.read(teacher.ledger)] == ["interrupted", "finished"]
    assert [one.event for one in ledger.read(alone.ledger)] == ["interrupted", "interrupted", "finished"]
    here = snakemake(tmp_path / "here", "--cores", "2", *SMALL_TABLE, root=clone)
    assert here.returncode == 0, here.stdout
    for file in ("tables/table9z.csv", *(f"runs/{spec.name}/weights.safetensors" for spec in runs)):
        ours, theirs = (tmp_path / place / "results/smoke" / file for place in ("here", "there"))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.skipif(bool(slurm.missing(*slurm.ACCOUNTING)), reason=slurm.missing(*slurm.ACCOUNTING))
@pytest.mark.parametrize("cluster", [True], indirect=True, ids=["with accounting"])
def test_a_cluster_with_accounting_charges_the_account_of_the_profile(clone, cluster, user, tmp_path):
    cluster("sacctmgr", "--immediate", "add", "account", "abc123")
    cluster("sacctmgr", "--immediate", "add", "user", "root", "account=abc123")
    profile = clone / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text()
    assert '  # slurm_account: "abc123"' in text
    profile.write_text(text.replace('  # slurm_account: "abc123"', '  slurm_account: "abc123"'))
    taught = runs_of_small_table(clone)[-1]
    metrics = f"results/smoke/runs/{taught.name}/metrics.json"
    ended = snakemake(
        tmp_path / "there", metrics, "--config", "scale=smoke", "--profile", profile.parent, *SOON, root=clone
    )
    assert ended.returncode == 0 and (tmp_path / "there" / metrics).exists(), ended.stdout
    charged = cluster("sacct", "--noheader", "--allocations", "--parsable2", "--format=account,state").splitlines()
    assert charged == ["abc123|COMPLETED"] * 3, ended.stdout  # data, teacher, student


def halt(folder, number):
    """Send a signal to the training of a run, a few epochs into an attempt."""
    os.kill(in_training(folder).pid, number)


def requeue(cluster, folder):
    """Have the job of a run preempted, a few epochs into an attempt."""
    in_training(folder)
    job = cluster.job(folder.spec.name)
    assert "TresPerJob=gres:gpu:1" in cluster("scontrol", "show", "job", job)
    cluster("scontrol", "requeue", job)
    wait_for(lambda: ended(folder))
    cluster("scontrol", "update", f"JobId={job}", "StartTime=now")


def ended(folder):
    """Whether the last attempt is over."""
    return ledger.read(folder.ledger)[-1].event == "interrupted" and not ledger.under_way(folder.lock)
