"""The workflow from configuration to tables: what it would do, what it leaves, what it makes again."""

import csv
import fcntl
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from calls import jobs, repository, results, snakemake

from bkdsnn.config import catalogue, paper
from bkdsnn.config.figure_plans import figure_names

pytestmark = pytest.mark.workflow

# By hand, per seed: teachers, students, evaluations of a table; the counts of runs are in test_paper.py. The published
# teachers of the paper scale (four on ImageNet) are evaluated once; the two ViT-S are published weights, fine-tuned.
KINDS = {"2a": (4, 32, 4), "2b": (2, 42, 0), "2c": (3, 24, 3), "2d": (1, 21, 0), "3a": (1, 15, 0), "4a": (4, 36, 0)}
KINDS |= {"3b": (2, 16, 0), "A4": (4, 16, 0)}
KINDS |= {"5a": (4, 36, 0), "5b": (3, 6, 0)}
KINDS |= {"4b": (4, 24, 0), "4c": (2, 12, 0), "4d": (4, 32, 0), "A1": (2, 24, 0), "A2": (2, 24, 0), "A3": (4, 16, 0)}
DATASETS = dict.fromkeys(KINDS, 2) | dict.fromkeys(("2c", "2d", "3a", "3b", "4b", "4c", "5b"), 1) | {"A4": 4}
FRAMES = dict.fromkeys(KINDS, 0) | {"3b": 3, "A4": 8}  # numbers of time-steps in use, per data set
# Analyses. Table 5a: its 36 students; 5b: its 8 rows; A2: 4 blur ratios on 2 data sets (3 of them are in 5a) and 3
# widths; A3: 4 losses. In all: 36 + 8, A2's two at ratio 0 and two widths below 768, A3's two that 5b has not.
ACTIVITY = {"5a": 36, "5b": 8}
JOBS = {  # dataset, published_weights, teacher, student, evaluation, table, frames
    **{(f"table{number}", "smoke"): (DATASETS[number], 0, *of, 1, FRAMES[number]) for number, of in KINDS.items()},
    ("table2a", "demo"): (2, 0, 4, 32, 4, 1, 0),
    ("table2c", "demo"): (1, 0, 3, 24, 3, 1, 0),
    ("table2b", "demo"): (2, 0, 2, 42, 0, 1, 0),
    ("table4d", "demo"): (2, 0, 4, 32, 0, 1, 0),
    ("table2c", "lite"): (1, 0, 9, 72, 9, 1, 0),
    ("table3a", "lite"): (1, 0, 3, 45, 0, 1, 0),
    ("table2a", "paper"): (2, 0, 12, 96, 12, 1, 0),
    ("table2b", "paper"): (2, 1, 6, 126, 0, 1, 0),
    ("table2c", "paper"): (1, 3, 0, 72, 12, 1, 0),
    ("table2d", "paper"): (1, 1, 0, 63, 1, 1, 0),
    ("table3a", "paper"): (1, 1, 0, 45, 1, 1, 0),
    ("table3b", "lite"): (1, 0, 6, 48, 0, 1, 3),
    ("tableA4", "paper"): (4, 0, 12, 48, 0, 1, 8),
    ("table4a", "paper"): (2, 1, 12, 108, 0, 1, 0),
    ("table4b", "paper"): (1, 4, 0, 72, 4, 1, 0),
    ("all", "smoke"): (8, 0, 17, 272, 7, 16, 11),
    ("all", "demo"): (8, 0, 17, 272, 7, 16, 11),
    ("all", "lite"): (8, 1, 51, 816, 21, 16, 11),
    ("all", "paper"): (8, 5, 39, 816, 25, 16, 11),
}
RULES = ("dataset", "published_weights", "teacher", "student", "evaluation", "table", "frames")
ALL_ACTIVITY = {"smoke": 50, "demo": 50, "lite": 150, "paper": 148}  # 3 seeds; at paper scale two teachers have one
FIGURES = {"activity": 0, "gradcam": 2, "features": 1, "figure": 8, "layers": 1, "notation": 1}
SMOKE = ("--config", "scale=smoke")
PARTS = ("history.jsonl", "metrics.json", "predictions.npz", "provenance.json", "spec.json", "weights.safetensors")


class Finished(NamedTuple):
    """A folder in which every table was made at smoke scale, and what was printed meanwhile."""

    folder: Path
    output: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the whole workflow once, whatever the number of test processes. Tests that change anything take `copy`."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    shared.mkdir(exist_ok=True)
    record = shared / "ended.json"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            ended = snakemake(shared / "folder", "--cores", "2", "all", *SMOKE)
            record.write_text(json.dumps([ended.returncode, ended.stdout]))
    code, output = json.loads(record.read_text())
    assert code == 0, output
    return Finished(shared / "folder", output)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished folder, with Snakemake's own records."""
    return shutil.copytree(finished.folder, tmp_path / "copy")


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository."""
    return repository(tmp_path / "clone")


@pytest.mark.parametrize(("target", "scale"), JOBS)
def test_a_dry_run_counts_the_jobs_of_each_rule(target, scale, tmp_path):
    ended = snakemake(tmp_path, "--dry-run", target, "--config", f"scale={scale}")
    assert ended.returncode == 0, ended.stdout
    analyses = {"activity": ACTIVITY.get(target.removeprefix("table"), 0), "layers": int(target == "table5b")}
    analyses = {**FIGURES, "activity": ALL_ACTIVITY[scale]} if target == "all" else analyses
    counts = dict(zip(RULES, JOBS[target, scale])) | analyses
    expected = {rule: count for rule, count in counts.items() if count}
    assert jobs(ended.stdout) == {**expected, target: 1}
    assert not (tmp_path / "results").exists()


def test_the_targets_are_the_tables_the_figures_and_all(tmp_path):
    ended = snakemake(tmp_path, "--list-target-rules")
    assert ended.returncode == 0, ended.stdout
    assert {*catalogue.table_names(), *figure_names(), "table1", "all"} <= set(ended.stdout.splitlines())


def test_the_linter_finds_nothing(tmp_path):
    ended = snakemake(tmp_path, "--lint")
    assert ended.returncode == 0, ended.stdout
    assert "your workflow is in a good condition" in ended.stdout


@pytest.mark.parametrize("table", catalogue.table_names())
def test_every_cell_is_measured(finished, table):
    tables = finished.folder / "results" / "smoke" / "tables"
    with (tables / f"{table}.csv").open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    plan = paper.plan(table, "smoke")
    assert [(cell["row"], cell["column"]) for cell in cells] == [(c.row.key, c.column.key) for c in plan.cells]
    for cell in cells:
        assert (cell["state"], cell["n"], cell["planned"], cell["seeds"]) == ("measured", "1", "1", "0")
        assert math.isfinite(float(cell["mean"])) and (cell["metric"] != "top1" or 0 <= float(cell["mean"]) <= 100)
    for suffix in ("md", "tex"):
        assert plan.scale.note.strip() in (tables / f"{table}.{suffix}").read_text()


def test_every_run_leaves_its_artefacts_and_no_checkpoints(finished):
    runs = finished.folder / "results" / "smoke" / "runs"
    planned = paper.all_runs("smoke")
    assert {path.name for path in runs.iterdir()} == planned.keys()
    for name, spec in planned.items():
        assert {path.name for path in (runs / name).iterdir()} == set(PARTS)
        metrics = json.loads((runs / name / "metrics.json").read_text())
        history = (runs / name / "history.jsonl").read_text().splitlines()
        correct = np.load(runs / name / "predictions.npz")["correct"]
        assert metrics["spec"] == spec.digest
        assert metrics["epochs"] == len(history) == (spec.recipe.total_epochs if spec.recipe else 0)
        assert metrics["top1"]["last"] == 100 * correct.mean()


def test_progress_is_told(finished):
    output = finished.output  # several processes write to it: a line may begin behind one that is not ended yet
    for name, spec in paper.all_runs("smoke").items():
        said = [text for text in re.findall(rf"{name}: (.*)", output) if not re.match(r"analysed|\d+ entries", text)]
        assert re.fullmatch(r"on .*, 1 threads", said[0])
        epochs = spec.recipe.total_epochs if spec.recipe else 0
        last = rf"epoch {epochs}/{epochs}, .*top-1 \d+\.\d\d %, done" if epochs else r"top-1 \d+\.\d\d %"
        assert re.fullmatch(last, said[-1])
    steps = sum(JOBS["all", "smoke"]) + sum(FIGURES.values()) + ALL_ACTIVITY["smoke"] + 1
    counted = re.findall(rf"(?<!\d)(\d+) of {steps} steps \([\d.]+%\) done", output)
    assert counted == [str(step) for step in range(1, steps + 1)]
    assert "table2a at scale smoke: 36 cells, 36 measured" in output
    assert "table2c at scale smoke: 27 cells, 27 measured" in output


def test_each_run_has_a_log_of_its_own(finished):
    logs = finished.folder / "results" / "smoke" / "logs" / "runs"
    for name in paper.all_runs("smoke"):
        assert re.search(rf"^\d{{4}}-\d\d-\d\d .* INFO {name}: ", (logs / f"{name}.log").read_text())


def test_a_second_call_has_nothing_to_do(copy):
    before = results(copy)
    ended = snakemake(copy, "--cores", "2", "all", *SMOKE)
    assert ended.returncode == 0 and jobs(ended.stdout) == {}
    assert results(copy) == before


def test_a_result_that_was_deleted_is_made_again_and_nothing_else(copy):
    before = results(copy)
    run = f"results/smoke/runs/{paper.plan('table2a', 'smoke').cell('bkdsnn', 'resnet20-cifar10').runs[0].name}"
    (copy / run / "metrics.json").unlink()
    ended = snakemake(copy, "--cores", "2", "all", *SMOKE)
    assert ended.returncode == 0, ended.stdout
    assert jobs(ended.stdout) == {"student": 1, "table": 2, "all": 1}  # table A3 has it too
    after = results(copy)
    changed = {path for path in after if after[path] != before.get(path)}
    assert after.keys() == before.keys()
    assert changed >= {f"{run}/{name}" for name in PARTS}
    assert all(Path(run).name in path or re.search(r"/table(2a|A3)\.", path) for path in changed)
    for path in (f"{run}/weights.safetensors", f"{run}/predictions.npz", "results/smoke/tables/table2a.csv"):
        assert after[path][1] == before[path][1]


def test_another_seed_adds_only_its_own_runs(copy):
    ended = snakemake(copy, "--dry-run", "all", *SMOKE, "seeds=[0,1]")
    assert ended.returncode == 0, ended.stdout
    expected = {"teacher": 17, "student": 272, "evaluation": 7, "table": 16, "activity": 50, "figure": 5, "all": 1}
    assert jobs(ended.stdout) == {**expected, "layers": 1}


def test_another_copy_of_a_dataset_is_carried_to_every_command_that_plans(tmp_path):
    copies = ("--config", "scale=smoke", "datasets={cifar10: digits-12, cifar10-dvs: smoke-digits-n-cars}")
    ended = snakemake(tmp_path, "--dry-run", "--printshellcmds", "all", *copies, "--quiet", "host")
    assert ended.returncode == 0, ended.stdout
    commands = set(re.findall(r"python -m bkdsnn (.+)", ended.stdout))
    planning = [one for one in commands if re.match("(table|layers|figure|gradcam|features|notation) ", one)]
    option = "--scale smoke --datasets cifar10=digits-12 cifar10-dvs=smoke-digits-n-cars "
    assert len(planning) == 29 and all(option in one for one in planning)
    prepared = {one.split()[1] for one in commands if re.match("(data|frames) ", one)}
    assert prepared >= {"digits-12", "smoke-digits-n-cars"}
    assert not prepared & {"smoke-digits-12", "smoke-digits-cifar10-dvs"}


def test_edited_sources_make_nothing_stale(copy, clone):
    for path in [*clone.rglob("*.py"), *clone.rglob("*.smk"), clone / "Snakefile"]:
        path.write_text(path.read_text() + "\n# edited\n")
    ended = snakemake(copy, "--dry-run", "all", *SMOKE, root=clone)
    assert ended.returncode == 0 and jobs(ended.stdout) == {}


def test_device_and_folders_make_nothing_stale(copy, tmp_path):
    ended = snakemake(copy, "--dry-run", "all", *SMOKE, "device=cpu", f"data={{root: {tmp_path}}}")
    assert ended.returncode == 0 and jobs(ended.stdout) == {}


def test_a_method_of_ones_own_is_one_more_row(copy, clone):
    table = clone / "config" / "paper" / "table2c.yaml"
    content = yaml.safe_load(table.read_text())
    content["rows"].append({"group": "with-kd", "method": "mine", "timesteps": 4, "paper": [None] * 3})
    table.write_text(yaml.safe_dump(content))
    mine = {"mine": {"label": "Mine", "base": "student", "teacher": "ann", "distill": {"ld": {"tau": 3.0}}}}
    with (clone / "config" / "methods.yaml").open("a") as stream:
        yaml.safe_dump(mine, stream)
    ended = snakemake(copy, "--dry-run", "all", *SMOKE, root=clone)
    assert ended.returncode == 0, ended.stdout
    assert jobs(ended.stdout) == {"student": 3, "table": 1, "all": 1}
    whole = snakemake(copy / "empty", "--dry-run", "table2c", *SMOKE, root=clone)
    assert jobs(whole.stdout) == {"dataset": 1, "teacher": 3, "student": 27, "evaluation": 3, "table": 1, "table2c": 1}


@pytest.mark.parametrize("figure", figure_names())
def test_every_figure_is_drawn_and_marked_with_its_scale(finished, figure):
    drawn = finished.folder / "figures" / "smoke"
    assert (drawn / f"{figure}.png").read_bytes().startswith(b"\x89PNG") and (drawn / f"{figure}.pdf").exists()
    with (drawn / f"{figure}.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert lines and {(line["figure"], line["scale"]) for line in lines} == {(figure, "smoke")}


def test_all_is_what_is_made_without_a_target(tmp_path):
    ended = snakemake(tmp_path, "--dry-run", *SMOKE)
    assert ended.returncode == 0 and jobs(ended.stdout) == jobs(snakemake(tmp_path, "--dry-run", "all", *SMOKE).stdout)
    assert jobs(ended.stdout)["table"] > 10


def test_a_report_shows_tables_and_figures(copy):
    ended = snakemake(copy, "--report", str(copy / "report.html"), *SMOKE)
    assert ended.returncode == 0, ended.stdout
    page = (copy / "report.html").read_text()
    for name in ("table2c.md", "table5b.md", "fig4.png", "fig2a.png"):
        assert name in page
