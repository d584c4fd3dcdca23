"""The GPU kit as a user fills, carries and starts it, on a CPU: an interpreter that lacks what a bare machine lacks."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from calls import environment, repository
from gpu import prepare, stages

from bkdsnn.config import catalogue, paper
from bkdsnn.data.convert import convert
from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the kit is for x86-64 Linux"),
]
ROWS = ("ann", "sew-resnet", "bkdsnn")
TINY = ("--device", "cpu", "--scale", "smoke", "--seeds", "0", "--rounds", "1", "--batch", "2")
TINY += ("--processes", "0", "--threads", "1", "--slots", "1", "--patience", "20")
EPOCHS = 60  # of the student alone: long enough to be ended
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def files_of(name):
    """The files of an installed package that a wheel of it has, with the folder in which they lie."""
    found = importlib.metadata.distribution(name)
    inside = [one for one in found.files or () if ".." not in one.parts and "__pycache__" not in one.parts]
    return inside, Path(str(found.locate_file("")))


def wheel(name, folder):
    """Pack an installed package as the wheel that it came from, and return its path."""
    found = importlib.metadata.distribution(name)
    tag = next(line[5:] for line in found.read_text("WHEEL").splitlines() if line.startswith("Tag: "))
    inside, site = files_of(name)
    path = folder / f"{name.replace('-', '_')}-{found.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for one in inside:
            packed.write(site / one, str(one))
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Wheels of the installed packages that a kit carries: no test needs an index."""
    folder = tmp_path_factory.mktemp("wheels")
    return {name: wheel(name, folder) for name in prepare.CARRIED}


@pytest.fixture(scope="module")
def project(tmp_path_factory, wheels):
    """A checkout whose lock has the hashes of these wheels, and a smoke scale whose student trains for long enough."""
    root = repository(tmp_path_factory.mktemp("project") / "project")
    scale = root / "config" / "scales" / "smoke.yaml"
    content = yaml.safe_load(scale.read_text())
    content["recipes"]["sew-cifar"] = {"epochs": EPOCHS}
    scale.write_text(yaml.safe_dump(content))
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in wheels.items()}
    versions = {name: importlib.metadata.version(name) for name in wheels}
    entries = [f"{name}=={versions[name]} \\\n    --hash=sha256:{found}\n" for name, found in hashes.items()]
    (root / "requirements.lock").write_text("".join(entries))
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "--quiet"), ("add", "--all"), (*author, "commit", "--quiet", "--message", "all")):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def kit(project, wheels):
    """The kit as prepare.py fills it for this Python, and what that said."""
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels["pydantic"].parent)}
    command = [sys.executable, "benchmarks/gpu/prepare.py", "--python", HERE]
    told = subprocess.run(
        command, cwd=project, env=environment(project) | pip, text=True, capture_output=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return project / ".gpu", told.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An interpreter without the packages that the kit carries, without snakemake, and without this project."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{HERE}" / "site-packages"
    lacking = {one.name for one in importlib.metadata.distributions() if one.name.startswith(("snakemake", "bkdsnn"))}
    absent = {one.parts[0] for name in (*prepare.CARRIED, *lacking) for one in files_of(name)[0]}
    for path in files_of("torch")[1].iterdir():
        if path.name not in absent and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def runs(project):
    """The column's runs by row: the teacher, the student alone, the student that it teaches."""
    table = catalogue.load_table("table2a", project / "config")
    plan = paper.Expansion("smoke", config=project / "config").plan(table)
    return {row: plan.cell(row, stages.COLUMN).runs[0] for row in ROWS}


class Machine:
    """A machine to which the kit was carried."""

    def __init__(self, folder, kit, python):
        self.folder, self.kit, self.python = folder, kit, python
        self.out = folder / "out"
        self.runs = folder / "work" / "project" / "results" / "smoke" / "runs"

    def start(self, *arguments, limit=3000, rows=ROWS):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("BKDSNN_", "PYTHON"))}
        knobs = {"PYTHON": self.python, "WORK": self.folder / "work", "OUT": self.out, "LIMIT": limit}
        line = ["bash", str(self.kit / "first.sh"), *arguments, *TINY, "--rows", *rows]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(line, env=kept | {key: str(value) for key, value in knobs.items()}, **streams)

    def report(self):
        """What report.txt says of each stage, and its first line under ''."""
        first, *sections = (self.out / "report.txt").read_text().strip().split("\n\n== ")
        return {"": first} | {one.partition("\n")[0]: one.partition("\n")[2] for one in sections}

    def packed(self, name):
        with tarfile.open(self.out / name) as tar:
            return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}


@pytest.fixture(scope="module")
def first(tmp_path_factory, kit, bare, runs):
    """The whole script, with a benchmark that does not exist, ended while the student trains; exit code and output."""
    machine = Machine(tmp_path_factory.mktemp("first"), kit[0], bare)
    history = machine.runs / runs["sew-resnet"].name / "history.jsonl"
    with machine.start("--tests", "tests/unit/test_firing_gpu.py", "--cases", "none", "demo-R20") as process:
        while not (history.is_file() and len(history.read_text().splitlines()) >= 3):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        process.terminate()
        return machine, process.communicate()[0], process.returncode


def test_the_kit_says_what_it_carries_and_what_it_lacks(kit, project):
    folder, told = kit
    assert f"packages: {len(prepare.CARRIED)} wheels for Python {HERE}" in told
    assert "CIFAR-10: SKIPPED: no data root" in told
    assert {path.name for path in folder.iterdir()} == {"first.sh", "project.tar.gz", "wheels"}
    changed = subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True)
    assert changed.stdout == ""


def test_the_bare_machine_lacks_what_the_kit_carries(bare):
    for name in ("pydantic", "spikingjelly", "pytest", "snakemake", "bkdsnn"):
        found = subprocess.run(
            [bare, "-E", "-c", f"import {name}"], cwd=bare.parent, capture_output=True, text=True, check=False
        )
        assert f"No module named '{name}'" in found.stderr


def test_every_stage_runs_and_the_one_that_fails_stops_no_other(first):
    machine, told, code = first
    report = machine.report()
    assert code == 1 and report[""].endswith("failed: steps-none"), told
    assert list(report)[1:] == ["machine", "right", "data", "neurons", "steps-none", "steps-demo-R20", "probe", "true"]
    states = {name: said.partition("\n")[0] for name, said in report.items() if name not in ("", "true")}
    assert states == dict.fromkeys(states, "ok") | {"steps-none": "FAILED with exit code 1"}
    assert "invalid choice: 'none'" in report["steps-none"]
    assert "no test passed: 40 skipped" in report["right"]
    assert "spikingjelly / ours" in report["neurons"] and "ours/plain" in report["steps-demo-R20"]
    assert "images/s in all" in report["probe"] and "digest" in report["data"]
    assert told.endswith((machine.out / "report.txt").read_text() + "\n")


def test_logs_and_benchmarks_come_back(first):
    packed = first[0].packed("measured.tar.gz")
    rows = {name: json.loads(packed[f"measured/{name}.json"]) for name in ("neurons", "steps-demo-R20", "probe")}
    assert [one["loss"] for one in rows["steps-demo-R20"]["rows"]] == ["ce", "bkdsnn"]
    assert len(rows["neurons"]["rows"]) == 12 and set(rows["probe"]["side_by_side"]) == {"1", "2"}
    assert b"seconds" not in packed["measured/right.txt"].partition(b"40 skipped")[0]


def test_a_training_that_is_ended_saves_and_its_teacher_can_be_imported(first, project, runs, tmp_path):
    machine = first[0]
    names = {row: spec.name for row, spec in runs.items()}
    said = machine.report()["true"].splitlines()
    assert said[0].startswith("1 of 3 runs finished, 0 failed; 0 running")
    assert said[1].startswith(f"{names['ann']}: finished, 1 of 1 epochs, top-1 ")
    assert said[2].startswith(f"{names['sew-resnet']}: to do, ") and f" of {EPOCHS} epochs" in said[2]
    packed = machine.packed("results-1.tar.gz")
    assert f"results/smoke/runs/{names['sew-resnet']}/checkpoints/last.safetensors" in packed
    assert "results/smoke/tables/table2a.md" in packed
    command = [sys.executable, "-m", "bkdsnn", "import", str(machine.out / "results-1.tar.gz"), "--scale", "smoke"]
    told = subprocess.run(command, cwd=tmp_path, env=environment(project), text=True, capture_output=True, check=False)
    assert told.returncode == 0 and f"{names['ann']}: imported" in told.stderr


def test_trainings_go_on_from_their_checkpoints_on_another_machine(first, kit, bare, runs, tmp_path):
    carried = tmp_path / "kit"
    carried.mkdir()
    for path in (*kit[0].iterdir(), *first[0].out.glob("results-*")):
        (carried / path.name).symlink_to(path)
    machine = Machine(tmp_path, carried, bare)
    process = machine.start("resume")
    told = process.communicate()[0]
    assert process.returncode == 0 and machine.report()["true"].startswith("3 of 3 runs finished, 0 failed"), told
    attempts = ledger.read(RunFolder(machine.runs, runs["sew-resnet"]).ledger)
    assert [one.event for one in attempts] == ["interrupted", "finished"]
    assert attempts[1].origin > (2, 0)


def test_the_jpeg_copy_stands_in_for_cifar10_at_any_scale_and_tables_say_so(kit, bare, runs, samples, tmp_path):
    (tmp_path / "kit").mkdir()
    convert(samples("cifar10/cifar-10-python-lossless-subset.tar.gz"), tmp_path / "whole")
    (tmp_path / "root" / "cifar-10-batches-bin").mkdir(parents=True)
    for path in (tmp_path / "whole").iterdir():
        (tmp_path / "root" / "cifar-10-batches-bin" / path.name).write_bytes(path.read_bytes()[: 3073 * 30])
    prepare.images(tmp_path / "kit", tmp_path / "root")
    for path in kit[0].iterdir():
        (tmp_path / "kit" / path.name).symlink_to(path)
    machine = Machine(tmp_path, tmp_path / "kit", bare)
    process = machine.start("true", rows=("ann",))
    told = process.communicate()[0]
    assert process.returncode == 0 and machine.report()["true"].startswith("1 of 1 runs finished"), told
    assert "CIFAR-10, JPEG-75 copy: 150 and 30 images, digest " in machine.report()["data"]
    assert "\ncifar10-jpeg75-ann-resnet20-" in machine.report()["true"]
    table = machine.packed("results-1.tar.gz")["results/smoke/tables/table2a.md"].decode()
    teacher = next(line for line in table.splitlines() if "Teacher ANN" in line).split("|")
    assert "JPEG-75 copy" in table and "not run" not in teacher[7]


def test_what_there_is_no_time_for_is_told_and_is_a_failure(kit, bare, tmp_path):
    machine = Machine(tmp_path, kit[0], bare)
    process = machine.start("right", limit=1)
    told = process.communicate()[0]
    assert process.returncode == 1, told
    assert machine.report()["right"] == "NOT RUN: no time left"


def test_a_kit_that_cannot_be_unpacked_is_told_in_the_report(kit, bare, tmp_path):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "first.sh").symlink_to(kit[0] / "first.sh")
    machine = Machine(tmp_path, tmp_path / "kit", bare)
    process = machine.start("true")
    assert "project.tar.gz" in process.communicate()[0] and process.returncode == 1
    assert machine.report()[""].startswith("setup: FAILED in line ")
