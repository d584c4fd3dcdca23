"""The workflow from configuration to tables: what it would do, what it leaves, what it makes again."""

import csv
import fcntl
import functools
import json
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from calls import jobs, repository, results, snakemake

from bkdsnn.config import Pretrained, catalogue, paper
from bkdsnn.config.figure_plans import figure_names, load_figure, plan_figure
from bkdsnn.runs.artefacts import data_records

pytestmark = pytest.mark.workflow

# Targets of which a dry run is counted, by scale: tables of images and of events, of several metrics, with conversions,
# published weights and chains of trainings; and all.
TARGETS = [(f"table{number}", "smoke") for number in ("2a", "2d", "3a", "5a", "A1", "A3")]
TARGETS += [("table2c", "demo"), ("table3b", "lite"), ("table2c", "paper"), ("tableA4", "paper")]
TARGETS += [("all", scale) for scale in catalogue.scale_names()]


def expected_jobs(target, scale, seeds=None):
    """Jobs by rule that make a target from nothing: a job for each thing that its cells name."""
    plans = [paper.plan(name, scale, seeds=seeds) for name in catalogue.table_names() if target in (name, "all")]
    runs = {name: run for plan in plans for name, run in plan.runs().items()}
    expansion = paper.Expansion(scale)
    shown = [plan_figure(expansion, load_figure(name), seeds) for name in figure_names() if target == "all"]
    kinds = Counter(plan.figure.kind for plan in shown)
    rates = {run for plan in shown if plan.figure.kind == "firing-rates" for run in plan.runs()}
    records = {record for run in runs.values() for record in data_records(run)}
    datasets = {f"{run.dataset.name}.json" for run in runs.values()}
    energies = [plan for plan in plans if any("energy" in cell.column.metric for cell in plan.cells)]
    weights = {run.source.name for run in runs.values() if isinstance(run.source, Pretrained)}
    counts = {"dataset": len(datasets), "frames": len(records - datasets), "published_weights": len(weights)}
    counts |= Counter(kind_of(run, scale) for run in runs.values())
    counts |= {"table": len(plans), "layers": len(energies), "figure": len(shown), "notation": int(target == "all")}
    counts |= {"activity": len({name for plan in plans for name in plan.analysed()} | rates)}
    counts |= {"gradcam": kinds["gradcam"], "features": kinds["histogram"], target: 1}
    return {rule: count for rule, count in counts.items() if count}


def kind_of(run, scale):
    """The rule that makes a run: what another imitates is a teacher, also a spiking network."""
    return "teacher" if run.recipe and run.name in teachers(scale) else run.kind


@functools.cache
def teachers(scale):
    return {run.teacher.name for run in paper.all_runs(scale).values() if run.teacher}


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


@pytest.mark.parametrize(("target", "scale"), TARGETS)
def test_a_dry_run_counts_the_jobs_of_each_rule(target, scale, tmp_path):
    ended = snakemake(tmp_path, "--dry-run", target, "--config", f"scale={scale}")
    assert ended.returncode == 0, ended.stdout
    assert jobs(ended.stdout) == expected_jobs(target, scale)
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
    steps = sum(expected_jobs("all", "smoke").values())
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
    assert jobs(ended.stdout) == {"student": 1, "table": 2, "figure": 1, "all": 1}  # table A3 and a figure have it too
    after = results(copy)
    changed = {path for path in after if after[path] != before.get(path)}
    assert after.keys() == before.keys()
    assert changed >= {f"{run}/{name}" for name in PARTS}
    assert all(Path(run).name in path or re.search(r"/(table2a|tableA3|fig_timesteps)\.", path) for path in changed)
    for path in (f"{run}/weights.safetensors", f"{run}/predictions.npz", "results/smoke/tables/table2a.csv"):
        assert after[path][1] == before[path][1]


def test_another_seed_adds_only_its_own_runs(copy):
    ended = snakemake(copy, "--dry-run", "all", *SMOKE, "seeds=[0,1]")
    assert ended.returncode == 0, ended.stdout
    known, single = {"dataset", "frames", "notation", "gradcam", "features"}, {"gradcam", "histogram"}
    expected = {rule: count for rule, count in expected_jobs("all", "smoke").items() if rule not in known}
    expected["figure"] -= sum(load_figure(name).kind in single for name in figure_names())
    assert jobs(ended.stdout) == expected


def test_another_copy_of_a_dataset_is_carried_to_every_command_that_plans(tmp_path):
    copies = ("--config", "scale=smoke", "datasets={cifar10: digits-12, cifar10-dvs: smoke-digits-n-cars}")
    ended = snakemake(tmp_path, "--dry-run", "--printshellcmds", "all", *copies, "--quiet", "host")
    assert ended.returncode == 0, ended.stdout
    commands = set(re.findall(r"python -m bkdsnn (.+)", ended.stdout))
    rules = ("table", "layers", "figure", "gradcam", "features")
    planning = [one for one in commands if one.split()[0] in rules]
    expected = sum(expected_jobs("all", "smoke")[rule] for rule in rules)
    option = "--scale smoke --datasets cifar10=digits-12 cifar10-dvs=smoke-digits-n-cars "
    assert len(planning) == expected and all(option in one for one in planning)
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
    before = expected_jobs("table2c", "smoke")
    assert jobs(whole.stdout) == {**before, "student": before["student"] + 3}


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
