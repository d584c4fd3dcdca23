"""The provenance of a run: the commit is this project's or none, and the machine is told."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bkdsnn.runs import provenance
from bkdsnn.runs.provenance import commit, cpu, driver, packages
from bkdsnn.runs.schema import Attempt

ROOT = Path(__file__).parents[2]
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: none\n"


def git(folder, *arguments):
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def repository(folder, *tracked):
    """Make a git repository of a folder with one commit of some of its files; return the commit."""
    git(folder, "init", "-q")
    git(folder, "add", *tracked)
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "--short=12", "HEAD").strip()


@pytest.fixture
def project(tmp_path):
    """The files of the project that tell its repository, unpacked in a folder of another one."""
    folder = tmp_path / "outer" / "bkdsnn-main"
    (folder / "bkdsnn").mkdir(parents=True)
    for name in provenance.OURS:
        shutil.copy(ROOT / name, folder / name)
    (tmp_path / "outer" / "notes.txt").write_text("another project")
    return folder


def test_the_commit_is_that_of_the_projects_repository_and_a_change_is_marked(project):
    assert commit(project) is None
    made = repository(project, ".")
    assert commit(project) == made
    (project / "bkdsnn" / "__init__.py").write_text("changed = True\n")
    assert commit(project) == f"{made}+"


@pytest.mark.parametrize("tracked", ["notes.txt", "."])
def test_inside_another_repository_no_commit_is_claimed(project, tracked):
    repository(project.parent, tracked)
    assert commit(project) is None


def test_files_that_a_repository_does_not_track_have_no_commit(project):
    (project / "other.txt").write_text("another project")
    repository(project, "other.txt")
    assert commit(project) is None


def test_a_package_installed_inside_a_repository_has_no_commit(tmp_path):
    site = tmp_path / "venv" / "lib" / "site-packages"
    shutil.copytree(ROOT / "bkdsnn", site / "bkdsnn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'another'\n")
    repository(tmp_path, ".")
    code = "from bkdsnn.runs import provenance; print(provenance.__file__, provenance.commit())"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True
    )
    assert run.stdout.decode().split() == [str(site / "bkdsnn" / "runs" / "provenance.py"), "None"]


def test_a_hook_of_another_repository_does_not_mislead(project, tmp_path, monkeypatch):
    made = repository(project, ".")
    repository(project.parent, "notes.txt")
    monkeypatch.setenv("GIT_DIR", str(project.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(project))
    assert commit(project) == made


def test_without_git_there_is_no_commit(project, monkeypatch):
    repository(project, ".")
    monkeypatch.setenv("PATH", "")
    assert commit(project) is None


def test_all_installed_packages_are_told_with_their_versions():
    found = packages()
    assert list(found) == sorted(found, key=str.lower)
    assert {name: found[name] for name in ("torch", "numpy", "pydantic", "pytest")} == {
        name: importlib.metadata.version(name) for name in ("torch", "numpy", "pydantic", "pytest")
    }


def test_the_processor_is_the_first_that_linux_tells(tmp_path):
    (tmp_path / "cpuinfo").write_text(ARM)
    assert cpu(tmp_path / "cpuinfo") == {"processor": "0", "BogoMIPS": "50.00", "Features": "fp asimd"}
    assert cpu(tmp_path / "absent") == {}


def test_a_driver_is_told_where_there_is_one(tmp_path):
    (tmp_path / "version").write_text("550.54.15\n")
    assert driver(tmp_path / "version") == "550.54.15" and driver(tmp_path / "absent") is None


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="names of Linux on x86")
def test_provenance_tells_the_machine():
    made = provenance.provenance([ATTEMPT], "a CPU", ["loop"], "d", [])
    assert made.threads == torch.get_num_threads() and made.interop_threads == torch.get_num_interop_threads()
    assert "sse2" in made.cpu_flags.split() and made.cpu
    assert made.cuda == torch.version.cuda and made.cudnn == torch.backends.cudnn.version()
    assert made.attempts[0].origin == (0, 1) and made.peak_memory_mb is None and made.seconds == 0
    assert json.loads(made.model_dump_json())["attempts"] == [
        {"started": "now", "host": "here", "device": "a CPU", "origin": [0, 1]}
    ]


ATTEMPT = Attempt(
    attempt="1",
    event="began",
    run="r",
    spec="s",
    kind="k",
    dataset="d",
    network="n",
    started="now",
    host="here",
    pid=1,
    device="a CPU",
    origin=(0, 1),
    reached=(0, 1),
    seconds=0.0,
    peak_memory_mb=1.0,
)
