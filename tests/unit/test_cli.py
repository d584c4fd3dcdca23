"""The command line as a user meets it: help, messages, exit codes, progress, full and read-only disks, imports."""

import contextlib
import io
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from safetensors.torch import load

from bkdsnn import cli
from bkdsnn.config import paper
from bkdsnn.config.settings import Settings
from bkdsnn.core import progress
from bkdsnn.core.errors import RESUMABLE, Interrupted, UserError
from bkdsnn.runs import checkpoint, records
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import execute

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
PLAN = paper.plan("table2a", "smoke")
TEACHER = PLAN.cell("ann", "resnet20-cifar10").runs[0]
STUDENT = PLAN.cell("bkdsnn", "resnet20-cifar10").runs[0]
SMOKE = ("--scale", "smoke")


class Ended(NamedTuple):
    """How a command ended, with the names of `subprocess`."""

    returncode: int
    stdout: str
    stderr: str


def environment():
    """The environment without what a developer may have set for this project."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BKDSNN_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def python(*arguments, cwd, **options):
    """Run a process of Python in `cwd`."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, **options)


def bkdsnn(*arguments, cwd, **variables):
    """Run a subcommand in `cwd`, within this process because a new one needs seconds to import torch."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment() | variables, clear=True))
        stack.enter_context(mock.patch.object(logging, "raiseExceptions", logging.raiseExceptions))
        stack.enter_context(mock.patch.object(progress.log, "handlers", []))
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        code = cli.main([str(argument) for argument in arguments])
        for handler in progress.log.handlers:
            handler.close()
    return Ended(code, out.getvalue(), err.getvalue())


def training(spec, results, *options):
    """The arguments that train a run of the smoke scale below `results`."""
    return ("train", spec.name, *SMOKE, "--results", results, *options)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A results folder with data and the teacher, made by the commands themselves."""
    results = tmp_path_factory.mktemp("results")
    manifest = bkdsnn("data", TEACHER.dataset.name, *SMOKE, "--results", results, cwd=results)
    assert manifest == (0, "", "")
    ended = bkdsnn(*training(TEACHER, results), cwd=results)
    assert ended.returncode == 0, ended.stderr
    return results


@pytest.fixture
def results(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "results")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- Help and messages -----------------------------------------------------------------------------------------------

ARGUMENTS = {
    "train": {
        *("run", "--spec", "--scale", "--results", "--device", "--threads", "--recompute"),
        *("--attempt", "--minutes", "--resources", "--log"),
    },
    "data": {"dataset", "--spec", "--scale", "--results", "--root", "--log"},
    "frames": {"dataset", "--spec", "--timesteps", "--scale", "--results", "--log"},
    "weights": {"name", "--root", "--resources", "--log"},
    "activity": {"run", "--scale", "--results", "--device", "--threads", "--log"},
    "table": {"table", "--scale", "--results", "--neurons", "--datasets", "--seeds", "--log", "--mac-pj", "--ac-pj"},
    "layers": {"table", "--scale", "--results", "--neurons", "--datasets", "--seeds", "--log", "--mac-pj", "--ac-pj"},
    "ledger": {"--scale", "--results", "--log"},
    "notation": {"--scale", "--results", "--log"},
    "schema": {"--folder"},
    "gradcam": {
        "figure",
        "--scale",
        "--results",
        "--neurons",
        "--datasets",
        "--seeds",
        "--device",
        "--threads",
        "--log",
    },
    "features": {
        "figure",
        "--scale",
        "--results",
        "--neurons",
        "--datasets",
        "--seeds",
        "--device",
        "--threads",
        "--log",
    },
    "figure": {"figure", "--scale", "--results", "--neurons", "--datasets", "--seeds", "--figures", "--log"},
    "plan": {
        *("target", "--row", "--column", "--json", "--names"),
        *("--scale", "--results", "--neurons", "--datasets", "--seeds", "--log"),
    },
    "show": {"run", "--spec", "--why", "--json", "--scale", "--results"},
    "calibrate": {
        *("targets", "--scale", "--results", "--neurons", "--datasets"),
        *("--seconds", "--device", "--threads", "--recompute", "--log"),
    },
    "import": {"source", "--scale", "--results", "--log"},
    "convert": {"source", "target"},
}


def test_help_names_every_subcommand(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--help"])
    listed = re.findall(r"^ {4}(\w+)(?: {2,}|\n {10,})\w", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(listed) == ARGUMENTS.keys()


@pytest.mark.parametrize("command", ARGUMENTS)
def test_help_of_a_subcommand_explains_every_argument(command, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    explained = re.findall(r"^ {2}([-\w]+)(?: [A-Z{][^\n]*?)?(?: {2,}|\n {10,})\w", shown, flags=re.MULTILINE)
    assert set(explained) == ARGUMENTS[command]


MISTAKES = [
    (f"train {STUDENT.name}", f"unknown run '{STUDENT.name}' in scale 'demo'"),
    ("train digits", "'digits' is not a run name; expected <dataset>-<network>-<method>-t<T>-s<seed>-<digest>"),
    (f"train {STUDENT.name} --scale smok", "unknown scale 'smok' (did you mean 'smoke'?)"),
    (f"train {STUDENT.name} --scale smoke --device gpu", "unknown device 'gpu'; expected auto, cpu, cuda or cuda:<n>"),
    ("data smoke-digits-21 --scale smoke", "in config/datasets.yaml (did you mean 'smoke-digits-12'?)"),
    ("data cifar10 --scale paper --root none", "'data.root' (or BKDSNN_DATA_ROOT): no such folder: none"),
    ("frames smoke-digits-12 --timesteps 4 --scale smoke", "dataset 'smoke-digits-12' has images; expected one with"),
    ("frames smoke-digits-n-cars --timesteps 4 --scale smoke", "smoke-digits-n-cars.json is missing; run the workflow"),
    ("weights torchvision/ResNet18_Weights.IMAGENET1K_V2", "(did you mean 'torchvision/ResNet18_Weights.IMAGENET1K_V1"),
    ("weights torchvision/ResNet18_Weights.IMAGENET1K_V1 --root none", "'weights.root' (or BKDSNN_WEIGHTS_ROOT): no"),
    ("table table2e", "unknown table 'table2e' (did you mean 'table"),
    ("table table2a --seeds -1", "'seed': Input should be greater than or equal to 0, found -1"),
    ("plan table_mine", "; own folder: none; set --config own=DIR (in single commands BKDSNN_OWN=DIR)"),
    ("plan table1", "table1, the notation, needs no run; `snakemake --cores 1 table1` makes it"),
    ("plan table2a --seeds 1 1", "'seeds' is [1, 1]; give at least one, and each once, such as seeds=[0, 1]"),
    ("plan fig4 --seeds 1 1", "'seeds' is [1, 1]; give at least one, and each once"),
    ("plan 2c", "unknown target '2c'; expected one of: fig2a"),
    ("plan table2a --row bkdsn", "unknown row 'bkdsn' (did you mean 'bkdsnn'?)"),
    ("plan fig4 --column R-19", "unknown column 'R-19' (did you mean 'R-18'?)"),
    ("train", "no run; expected a name, which `python -m bkdsnn plan <table>` lists, or --spec <file>"),
    ("train --spec mine.yaml", "mine.yaml: no such file"),
    ("show", "no run; expected a name"),
    ("show digits", "'digits' is not a run name"),
    (f"show {STUDENT.name}", f"unknown run '{STUDENT.name}' in scale 'demo'"),
    ("plan table2c --scale huge", "unknown scale 'huge'; expected one of: demo, lite, paper, smoke"),
    ("import none --scale smoke", "none: no such file or folder"),
    ("import . --scale smok", "unknown scale 'smok' (did you mean 'smoke'?)"),
    ("import . --scale smoke", "no finished run in it (a folder with metrics.json); expected a run folder"),
    ("calibrate table2e", "unknown target 'table2e' (did you mean 'table"),
    ("calibrate table2c --scale huge", "unknown scale 'huge'; expected one of: demo, lite, paper, smoke"),
    ("convert nowhere target", "nowhere: "),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(arguments, message, tmp_path):
    ended = bkdsnn(*arguments.split(), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and message in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_run_is_answered_by_the_nearest_and_by_where_the_others_are_listed(tmp_path):
    ended = bkdsnn("train", STUDENT.name.replace("-t4-", "-t5-"), *SMOKE, cwd=tmp_path)
    assert ended.returncode == 1 and len(ended.stderr) < 400
    assert f"(did you mean '{STUDENT.name}'?); `python -m bkdsnn plan <table> --scale smoke` lists" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train run --minutes 0", "argument --minutes: must be more than 0, found 0"),
        ("train run --minutes -5", "argument --minutes: must be more than 0, found -5"),
        ("train run --minutes nan", "argument --minutes: must be more than 0, found nan"),
        ("train run --minutes ten", "argument --minutes: invalid float value: 'ten'"),
        ("train run --threads 0", "argument --threads: must be more than 0, found 0"),
        ("frames set", "the following arguments are required: --timesteps"),
        ("frames set --timesteps 0", "argument --timesteps: must be more than 0, found 0"),
        ("train run --threads 1.5", "argument --threads: invalid int value: '1.5'"),
        ("table table2a --neurons lif", "argument --neurons: invalid choice: 'lif'"),
        ("table table2a --seeds", "argument --seeds: expected at least one argument"),
        ("plan table2a --json --names", "argument --names: not allowed with argument --json"),
        (
            "plan table2a --datasets cifar10",
            "argument --datasets: expected two datasets such as cifar10=cifar10-jpeg75, found 'cifar10'",
        ),
        ("tabel", "argument command: invalid choice: 'tabel'"),
        ("", "the following arguments are required: command"),
    ],
)
def test_wrong_usage_names_the_argument(arguments, message, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(arguments.split())
    said = capsys.readouterr().err
    assert said.startswith("usage: ") and message in said.splitlines()[-1]


# ---- What the commands do --------------------------------------------------------------------------------------------


def test_plan_lists_the_runs_of_every_cell_after_their_ancestors_with_their_state(prepared):
    ended = bkdsnn("plan", "table2a", *SMOKE, "--results", prepared, cwd=prepared)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [re.split(" {2,}", line) for line in ended.stdout.splitlines()]
    cells = {(cell.row.key, cell.column.key, f"seed {run.seed}"): run.name for cell in PLAN.cells for run in cell.runs}
    assert {tuple(line[:3]): line[4] for line in lines if "(" not in line[0]} == cells
    assert {line[4] for line in lines} == PLAN.runs().keys() and len(lines) > len(cells)
    assert {line[4]: line[3] for line in lines} == {
        name: "finished" if name == TEACHER.name else "to do" for name in PLAN.runs()
    }


def test_training_tells_its_progress_on_standard_error_and_in_the_log(results, tmp_path):
    log = tmp_path / "logs" / "run.log"
    ended = python("-m", "bkdsnn", *training(STUDENT, results, "--log", log), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")
    first, *about, second = ended.stderr.splitlines()
    number = r"\d+\.\d{3}"
    assert re.fullmatch(rf"{STUDENT.name}: on \S+ CPU, 1 threads", first)
    assert re.fullmatch(
        rf"{STUDENT.name}: epoch 1/1, ce {number}, bkd {number}, ld {number}, top-1 \d+\.\d\d %, done", second
    )
    taught = records.finished(TEACHER, results / "smoke").metrics.top1.last
    assert about == [
        f"{STUDENT.name}: network resnet20 (resnet, sew), 2,718 parameters, T = 4",
        f"{STUDENT.name}: losses ce, bkd (weight 0.0007), ld (weight 1.0)",
        f"{STUDENT.name}: recipe 1 epochs of 4 batches of 10, sgd, lr 0.1 (cosine down to 0), weight decay 0",
        f"{STUDENT.name}: data digits, smoke test (embedded), 40 training and 20 test samples, 10 classes, "
        "made here in place of real data",
        f"{STUDENT.name}: teacher {TEACHER.name}, top-1 {taught:.2f} %",
    ]
    times, logged = zip(*(line.split(" INFO ") for line in log.read_text().splitlines()))
    assert list(logged) == [first, *about, second]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", time) for time in times)

    again = bkdsnn(*training(STUDENT, results, "--log", log), cwd=tmp_path)
    assert again == (0, "", f"{STUDENT.name}: already finished\n")


@pytest.mark.parametrize("option", [(), ("--recompute",)], ids=["no option", "option"])
@pytest.mark.parametrize("configured", [False, True])
def test_recomputation_is_asked_for_by_the_option_or_the_configuration(results, option, configured):
    with mock.patch.dict(os.environ):
        Settings.read({"scale": "smoke", "recompute": configured}).export()
        exported = os.environ["BKDSNN_RECOMPUTE"]
    ended = bkdsnn(*training(STUDENT, results, *option), cwd=results, BKDSNN_RECOMPUTE=exported)
    assert ended.stderr.splitlines()[0].endswith("1 threads, recomputing activations") == (configured or bool(option))


@pytest.mark.parametrize("command", [training(STUDENT, "results"), ("calibrate", "table2a", *SMOKE)])
def test_another_value_of_the_variable_is_told_in_one_line(command, tmp_path):
    ended = bkdsnn(*command, cwd=tmp_path, BKDSNN_RECOMPUTE="yes")
    said = "error: BKDSNN_RECOMPUTE is 'yes', expected true or false; unset it and give --recompute instead\n"
    assert ended == (1, "", said) and list(tmp_path.iterdir()) == []


def test_a_slice_that_ends_exits_with_75_and_the_same_command_goes_on(results):
    ended = bkdsnn(*training(STUDENT, results, "--minutes", "0.0001"), cwd=results)
    assert ended.returncode == RESUMABLE == 75
    assert ended.stderr.splitlines()[-1] == f"{STUDENT.name}: saved at epoch 1, step 1; run again to continue"
    again = bkdsnn(*training(STUDENT, results), cwd=results)
    assert again.returncode == 0, again.stderr
    assert RunFolder(results / "smoke" / "runs", STUDENT).finished


def test_recordings_are_integrated_and_a_terminated_conversion_leaves_nothing(tmp_path):
    name = next(spec.dataset.name for spec in paper.all_runs("smoke").values() if spec.dataset.events)
    assert bkdsnn("data", name, *SMOKE, cwd=tmp_path) == (0, "", "")
    before = contents(tmp_path)
    probe = (
        "import os, signal, sys; from bkdsnn import cli; from bkdsnn.core import progress; progress.EVERY = 0;"
        "told = lambda record: record.msg == 'stopped' or os.kill(os.getpid(), signal.SIGTERM);"
        "progress.log.addFilter(told);"
        f"sys.exit(cli.main(['frames', '{name}', '--timesteps', '4', '--scale', 'smoke']))"
    )
    ended = python("-c", probe, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n") and contents(tmp_path) == before
    record = Path("results", "smoke", "data", f"{name}-t4.json")
    ended = bkdsnn("frames", name, *SMOKE, "--timesteps", "4", "--log", tmp_path / "log", cwd=tmp_path)
    assert ended.returncode == 0 and ended.stderr.startswith(f"{record}: 4 frames of each of ")
    assert (tmp_path / record).exists() and (tmp_path / "log").read_text().endswith(ended.stderr)


def test_a_run_on_another_copy_is_trained_tabulated_and_imported_by_its_name(tmp_path):
    copy = ("--datasets", "cifar10=digits-12")
    listed = bkdsnn("plan", "table2a", *SMOKE, *copy, cwd=tmp_path).stdout.split()
    name = next(word for word in listed if word.startswith("digits-12-ann-resnet20-ce-"))
    assert bkdsnn("data", "digits-12", *SMOKE, cwd=tmp_path).returncode == 0
    assert bkdsnn("train", name, *SMOKE, cwd=tmp_path).returncode == 0
    assert bkdsnn("table", "table2a", *SMOKE, *copy, cwd=tmp_path).returncode == 0
    shown = (tmp_path / "results/smoke/tables/table2a.md").read_text()
    assert "digits (embedded) stands in for CIFAR-10;" in shown and "'datasets={cifar10: digits-12}'" in shown
    source = tmp_path / "results" / "smoke" / "runs"
    ended = bkdsnn("import", source, *SMOKE, "--results", tmp_path / "there", cwd=tmp_path)
    assert ended.returncode == 0 and f"{name}: imported" in ended.stderr


# ---- Disks that cannot be written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [f"train {STUDENT.name}", f"data {STUDENT.dataset.name}", "table table2a"])
@pytest.mark.parametrize("option", ["--results", "--log"])
def test_a_folder_that_cannot_be_written_is_told_in_one_line(command, option, tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "below"
    ended = bkdsnn(*command.split(), *SMOKE, option, place, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: cannot write {place}") and ended.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_grow_ends_training_with_one_message_and_the_same_command_finishes(results):
    before, folder = contents(results), RunFolder(results / "smoke" / "runs", STUDENT)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # of compiled neurons, not of a checkpoint

    ended = python("-m", "bkdsnn", *training(STUDENT, results), cwd=results, preexec_fn=limit)
    errors = [line for line in ended.stderr.splitlines() if not line.startswith(f"{STUDENT.name}: ")]
    assert ended.returncode == len(errors) == 1
    assert errors[0].startswith(f"error: cannot write {folder.checkpoint}: ")
    assert before.items() <= contents(results).items() and not folder.finished
    assert bkdsnn(*training(STUDENT, results), cwd=results).returncode == 0 and folder.finished


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, pages):
    """Write one large file that leaves so many pages of 4 KiB free; return it."""
    free = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - pages * 4096)))
    return filler


def test_a_full_disk_ends_training_with_one_message_and_the_same_command_finishes(prepared, small_disk, tmp_path):
    results = shutil.copytree(prepared, small_disk / "results")
    before, run = contents(results), results / "smoke" / "runs" / STUDENT.name
    filler = fill(small_disk, pages=0)
    command = training(STUDENT, results, "--log", small_disk / "run.log")
    ended = python("-m", "bkdsnn", *command, cwd=tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith(f"error: cannot write {run}/") and "No space left on device" in ended.stderr
    assert before.items() <= contents(results).items()
    filler.unlink()
    assert bkdsnn(*command, cwd=tmp_path).returncode == 0 and (run / "metrics.json").exists()
    assert "epoch 1/1" in (small_disk / "run.log").read_text()


def weights_after(scale):
    """The weights of the student once it is finished."""
    execute(STUDENT, scale, scale, CPU, None)
    return load((RunFolder(scale / "runs", STUDENT).path / "weights.safetensors").read_bytes())


FRESH = {"checkpoints/lock", "ledger", "spec.json", "checkpoints/last.safetensors", "history.jsonl"}
FRESH |= {"weights.safetensors", "predictions.npz", "metrics.json"}
RESUMED = {"checkpoints/last.safetensors"}  # replacing this frees space for the rest


@pytest.mark.parametrize(("resumed", "places"), [(False, FRESH), (True, RESUMED)], ids=["fresh", "resumed"])
def test_wherever_the_disk_fills_up_nothing_earlier_is_lost(results, small_disk, tmp_path, resumed, places):
    """Try with ever more free space until that is enough; resumed runs have a checkpoint of their first step."""
    start = results / "smoke"
    expected = weights_after(shutil.copytree(start, tmp_path / "whole"))
    if resumed:
        with pytest.raises(Interrupted):
            execute(STUDENT, start, start, CPU, 1e-9)
    stopped_at = set()
    for pages in range(100):
        scale = shutil.copytree(start, small_disk / str(pages))
        folder, before = RunFolder(scale / "runs", STUDENT), contents(scale)
        filler = fill(small_disk, pages)
        try:
            execute(STUDENT, scale, scale, CPU, None)
            break
        except UserError as error:
            stopped = re.match(rf"cannot write (?:{folder.path}|{scale})/([\w/.]+)", str(error))[1]
            stopped_at.add("ledger" if stopped.startswith("ledger/") else stopped)
        assert not folder.finished
        if resumed or folder.checkpoint.exists():
            checkpoint.read_tensors(folder.checkpoint)
        own = (*folder.path.rglob("*"), folder.ledger)
        earlier = {path: content for path, content in before.items() if path not in own}
        assert earlier.items() <= contents(scale).items()
        filler.unlink()
        weights = weights_after(scale)
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        shutil.rmtree(scale)
    assert folder.finished and stopped_at >= places


# ---- What is imported ------------------------------------------------------------------------------------------------

HEAVY = ("torchvision", "timm", "pandas", "matplotlib", "scipy", "sklearn", "spikingjelly", "snakemake")


def test_a_training_at_demo_scale_imports_no_heavy_package_and_tells_the_time_left(tmp_path):
    spec = paper.plan("table2a", "demo").cell("ann", "resnet20-cifar10").runs[0]
    made = bkdsnn("data", spec.dataset.name, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    probe = (
        "import sys; from bkdsnn.cli import main;"
        f"code = main(['train', '{spec.name}']);"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], 'torch' in sys.modules)"
    )
    ended = python("-c", probe, cwd=tmp_path)
    assert ended.stdout == "0 [] True\n", ended.stderr
    epochs = [line for line in ended.stderr.splitlines() if ": epoch " in line]
    left = [re.search(rf": epoch {i}/{spec.recipe.epochs}, .* %, (.+)$", line)[1] for i, line in enumerate(epochs, 1)]
    assert len(left) == spec.recipe.epochs and left[-1] == "done"
    assert all(re.fullmatch(r"(\d+ min )?\d+ (min|s) left", one) for one in left[:-1])


def test_plans_are_built_without_torch(tmp_path):
    probe = (
        "import sys; from bkdsnn.config import catalogue, paper, settings;"
        "runs = [paper.all_runs(scale) for scale in catalogue.scale_names()];"
        f"print(all(runs), [name for name in {('torch', 'numpy', *HEAVY)!r} if name in sys.modules])"
    )
    assert python("-c", probe, cwd=tmp_path).stdout == "True []\n"


def test_mistakes_are_told_before_torch_is_imported(tmp_path):
    probe = (
        "import sys; from bkdsnn.cli import main;"
        "codes = main(['train', 'digits']), main(['plan', 'table2a']), main(['table', 'table2e']);"
        "print(codes, 'torch' in sys.modules)"
    )
    assert python("-c", probe, cwd=tmp_path).stdout.splitlines()[-1] == "(1, 0, 1) False"
