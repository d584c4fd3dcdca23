"""What a user reads of costs: at the end of a dry run, at the start of a real one, and where a cap is exceeded."""

import shutil
import subprocess
import sys

import pytest
from calls import ROOT, environment, jobs, results, snakemake

from bkdsnn.budget.calibration import Calibration, Times
from bkdsnn.budget.work import kind
from bkdsnn.config import paper

pytestmark = pytest.mark.workflow

RUNS = paper.plan("table2c", "smoke").runs()
TEACHER = next(name for name, spec in RUNS.items() if spec.kind == "teacher")
TABLE = ("table2c", "--config", "scale=smoke")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with one trained teacher, and what was printed meanwhile."""
    folder = tmp_path_factory.mktemp("begun")
    target = f"results/smoke/runs/{TEACHER}/metrics.json"
    ended = snakemake(folder, "--cores", "1", target, "--config", "scale=smoke")
    assert ended.returncode == 0, ended.stdout
    return folder, ended.stdout


@pytest.fixture
def calibrated(prepared, tmp_path):
    """The same folder with times of every kind of run: 1 s a step, 0.001 s a test image, 2 s to start."""
    folder = shutil.copytree(prepared[0], tmp_path / "calibrated")
    bytes_ = {"parameters": 100, "weights_bytes": 400, "checkpoint_bytes": 1200}
    times = {
        kind(spec): Times(step_seconds=1.0, step_spread=0, image_seconds=0.001, image_spread=0, **bytes_)
        for spec in RUNS.values()
    }
    device = "x86_64 CPU, 1 threads"
    Calibration(device=device, date="", versions={}, startup_seconds=2.0, times=times).write(folder / "results")
    return folder


def test_a_dry_run_begins_with_the_number_of_runs_and_what_to_do_where_nothing_is_known(tmp_path):
    ended = snakemake(tmp_path, "--dry-run", *TABLE)
    assert ended.returncode == 0
    told = ended.stdout.partition("Building DAG of jobs...")[2].partition("Job stats")[0].splitlines()[1:]
    assert told == [
        "",
        f"budget: {len(RUNS)} runs",
        f"  no estimate of {len(RUNS)} runs; to know more: `python -m bkdsnn calibrate table2c --scale smoke`",
        "  not counted: jobs for data, analyses, tables and figures",
    ]
    assert ended.stdout.count("budget:") == 1


def test_only_what_would_run_is_counted_by_what_was_measured_or_calibrated(calibrated):
    ended = snakemake(calibrated, "--dry-run", *TABLE)
    counts = jobs(ended.stdout)
    assert counts["teacher"] + counts["student"] + counts["evaluation"] == 29
    told = ended.stdout.partition("\nbudget: 29 runs on x86_64 CPU, 1 threads; ")[2]
    assert "\n  from calibration (29)\n" in told and TEACHER not in told
    again = snakemake(calibrated, "--dry-run", *TABLE, "seeds=[0,1]")
    assert "\n  from finished runs (1), calibration (58)\n" in again.stdout  # the teacher's, with another seed
    nothing = snakemake(calibrated, "--dry-run", f"results/smoke/runs/{TEACHER}/metrics.json", *TABLE[1:])
    assert jobs(nothing.stdout) == {} and "budget:" not in nothing.stdout


def test_a_real_run_tells_it_once_and_not_in_the_processes_of_its_jobs(prepared):
    assert prepared[1].count("budget:") == prepared[1].count("budget: 1 run\n") == 1


@pytest.mark.parametrize("cap", ["cap_hours: 0.001", "cap_disk_gb: 0.0001"])
def test_above_a_cap_nothing_begins_and_a_dry_run_warns(calibrated, cap):
    before = results(calibrated)
    setting = f"budget={{{cap}}}"
    dry = snakemake(calibrated, "--dry-run", *TABLE, setting)
    assert dry.returncode == 0
    key, _, value = cap.partition(": ")
    problem = f"more than 'budget.{key}', which is {float(value):g}; raise the key in config/config.yaml"
    (warning,) = (line for line in dry.stdout.splitlines() if line.startswith("warning:"))
    assert warning.startswith("warning: a real run would be refused: needs up to ") and problem in warning
    real = snakemake(calibrated, "--cores", "1", *TABLE, setting)
    assert real.returncode == 1 and real.stdout.count(problem) == 1 and "Traceback" not in real.stdout
    assert results(calibrated) == before


def test_a_damaged_calibration_is_named_and_stops_only_what_is_capped(calibrated):
    (file,) = (calibrated / "results" / "calibration").iterdir()
    file.write_text("{")
    target = (f"results/smoke/data/{RUNS[TEACHER].dataset.name}.json", f"results/smoke/runs/{TEACHER}/spec.json")
    (calibrated / target[1]).unlink()
    dry = snakemake(calibrated, "--dry-run", *TABLE)
    assert dry.returncode == 0 and f"\nbudget: {file}: " in dry.stdout
    capped = snakemake(calibrated, "--cores", "1", *target, *TABLE[1:], "budget={cap_hours: 5}")
    assert capped.returncode == 1 and "delete it and run `python -m bkdsnn calibrate` again" in capped.stdout
    assert not (calibrated / target[1]).exists()
    free = snakemake(calibrated, "--cores", "1", *target, *TABLE[1:])
    assert free.returncode == 0 and f"budget: {file}: " in free.stdout and (calibrated / target[1]).exists()


def test_a_cap_that_cannot_be_checked_stops_a_real_run(tmp_path):
    ended = snakemake(tmp_path, "--cores", "1", *TABLE, "budget={cap_hours: 5}")
    assert ended.returncode == 1
    assert "'budget.cap_hours' is 5, but there is no estimate of 30 runs, such as " in ended.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "begin"), [(["--rulegraph", "dot"], "digraph"), (["--list-target-rules"], "all"), (["--lint"], "")]
)
def test_what_other_programs_read_stays_clean(arguments, begin, tmp_path):
    command = [sys.executable, "-m", "snakemake", "--directory", str(tmp_path), *arguments]
    command += ["--config", "scale=smoke"]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended.stdout.lstrip().startswith(begin)
    assert "budget" not in ended.stdout + ended.stderr


def test_it_goes_to_standard_error_and_quiet_all_silences_it(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--directory", str(tmp_path), "--dry-run"]
    for quiet, told in (["rules", "progress"], True), (["all"], False):
        run = [*command, "--quiet", *quiet, "--config", "scale=smoke", "--", "table2c"]
        ended = subprocess.run(run, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert ended.returncode == 0 and "budget:" not in ended.stdout
        assert ("\nbudget: 30 runs\n" in ended.stderr) is told


def test_a_refusal_is_told_even_if_all_else_is_quiet(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--directory", str(tmp_path), "--cores", "1", "--quiet", "all"]
    command += ["--config", "scale=smoke", "budget={cap_hours: 5}", "--", "table2c"]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "\n'budget.cap_hours' is 5, but there is no estimate of 30 runs" in ended.stderr
