"""Runs as a person sees them before and after training: where values come from, lists, runs of a file of one's own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bkdsnn import cli
from bkdsnn.config import RunSpec, catalogue, paper, plans, resolution
from bkdsnn.config.figure_plans import load_figure, plan_figure
from bkdsnn.config.layers import Layer, merged, origins
from bkdsnn.core.errors import UserError
from bkdsnn.runs import overview
from bkdsnn.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = Path("nowhere") / "spec.json"
PLAN = paper.plan("table2a", "smoke")
STUDENT = PLAN.cell("bkdsnn", "resnet20-cifar10").runs[0]
MINE = {
    "method": "bkdsnn",
    "student": "sew-resnet",
    "dataset": "cifar10",
    "network": "resnet20",
    "timesteps": 4,
    "recipes": {"student": "sew-cifar", "teacher": "ann-cifar"},
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write `mine.yaml` into an empty folder, which becomes the current one."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        content = {key: value for key, value in {**MINE, **changes}.items() if value is not None}
        Path("mine.yaml").write_text(yaml.safe_dump(content))
        return Path("mine.yaml")

    return write


def places(found, part):
    return origins(found.parts[part])


# ---- Where values come from ------------------------------------------------------------------------------------------


def test_a_later_layer_overrides_an_earlier_one_and_its_place_with_it():
    layers = [Layer("first", {"a": 1, "b": 2}), Layer("second", {"b": None})]
    assert merged(layers) == {"a": 1, "b": None} and origins(layers) == {"a": "first", "b": "second"}


def test_every_value_of_a_run_knows_the_file_that_states_it():
    found = resolution.resolve(STUDENT.name, "smoke", NOWHERE)
    assert found.spec == STUDENT and found.asked_by[0] == "table2a, row 'bkdsnn', column 'resnet20-cifar10'"
    assert places(found, "run")["dataset"] == "config/scales/smoke.yaml, datasets 'cifar10'"
    assert places(found, "run")["teacher"] == "config/methods.yaml, 'bkdsnn'"
    assert places(found, "network")["timesteps"] == "config/paper/table2a.yaml, row 'bkdsnn'"
    assert places(found, "network")["form"] == "config/methods.yaml, 'sew-resnet'"
    assert places(found, "network")["stem"] == "config/networks.yaml, 'resnet20'"
    assert places(found, "network")["widths"] == "config/scales/smoke.yaml, networks 'resnet20'"
    assert places(found, "network")["neuron"] == "config/neurons.yaml, 'if-atan', by config/methods.yaml, 'sew-resnet'"
    assert places(found, "recipe")["lr"] == "config/recipes/sew.yaml, 'sew-cifar'"
    assert places(found, "recipe")["epochs"] == "config/scales/smoke.yaml, recipes '*'"
    assert places(found, "bkd")["weight"] == "config/paper/table2a.yaml"


@pytest.mark.parametrize("scale", catalogue.scale_names())
def test_the_values_whose_origin_is_told_are_all_that_makes_the_run(scale):
    expansion = paper.Expansion(scale)
    for table in (catalogue.load_table(name) for name in catalogue.table_names()):
        for cell in expansion.plan(table, [0]).cells:
            spec, parts = cell.runs[0], expansion.parts(cell.row.method, plans.At.of(table, cell.row, cell.column))
            models = {"dataset": spec.dataset, "network": spec.network, "recipe": spec.recipe}
            for part, model in (models | {term.method: term for term in spec.distill}).items():
                stated = merged(parts[part])
                if model:
                    assert type(model).model_validate(stated).model_dump() == model.model_dump()


def test_ancestors_and_runs_of_any_seed_and_preset_are_resolved():
    run = paper.plan("table2c", "lite", seeds=[11], neurons="paper-text").cell("bkdsnn", "resnet18-imagenet").runs[0]
    found = resolution.resolve(run.name, "lite", NOWHERE)
    assert found.spec == run and "'paper-text'" in places(found, "network")["neuron"]
    teacher = resolution.resolve(run.teacher.name, "lite", NOWHERE)
    assert teacher.spec == run.teacher and places(teacher, "recipe")["lr"].startswith("config/recipes/ann.yaml")


def test_a_run_of_several_cells_names_the_others():
    expansion = paper.Expansion("smoke")
    shown = plan_figure(expansion, load_figure("fig4")).panels[0].curves[0].runs[0]
    found = resolution.resolve(shown.name, "smoke", NOWHERE)
    assert found.spec == shown and len(found.asked_by) > 1
    text = overview.details(found, RunFolder(Path("runs"), shown), why=False)
    assert f"asked for by: {found.asked_by[0]} (and {len(found.asked_by) - 1} more)\n" in text and "config/" not in text


# ---- Lists -----------------------------------------------------------------------------------------------------------


def states(folder):
    return {one.name: one.state for one in overview.listed(PLAN, folder, "bkdsnn", "resnet20-cifar10")}


def test_a_list_tells_whether_a_run_is_finished_failed_partial_or_to_do(tmp_path):
    folder = tmp_path / STUDENT.name
    (folder / "checkpoints").mkdir(parents=True)
    assert states(tmp_path) == {STUDENT.teacher.name: "to do", STUDENT.name: "to do"}
    for name, state in (
        ("checkpoints/last.safetensors", "partial"),
        ("failure.json", "failed"),
        ("metrics.json", "finished"),
    ):
        (folder / name).touch()
        assert states(tmp_path) == {STUDENT.teacher.name: "to do", STUDENT.name: state}


def test_a_list_is_given_as_json_and_as_names_for_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one_cell = ["plan", "table2a", "--scale", "smoke", "--row", "bkdsnn", "--column", "resnet20-cifar10"]
    assert cli.main([*one_cell, "--names"]) == 0 and capsys.readouterr().out == f"{STUDENT.name}\n"
    assert cli.main([*one_cell, "--json"]) == 0
    common = {"row": "bkdsnn", "column": "resnet20-cifar10", "seed": 0, "state": "to do"}
    assert json.loads(capsys.readouterr().out) == [
        {**common, "role": "teacher", "name": STUDENT.teacher.name},
        {**common, "role": "cell", "name": STUDENT.name},
    ]


def test_a_figure_is_listed_by_curve_and_panel(tmp_path):
    plan = plan_figure(paper.Expansion("smoke"), load_figure("fig4"))
    found = overview.listed(plan, tmp_path, "+L_MD", "R-18")
    assert [one.role for one in found] == ["teacher", "cell"] and found[-1].name == plan.panels[0].curves[3].runs[
        0
    ].name


def test_a_reader_that_has_enough_ends_a_list_without_a_traceback(tmp_path):
    command = f"{sys.executable} -m bkdsnn plan table2a --scale smoke | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("target", "reason"), [("/dev/full", "No space left on device"), ("&-", "it is closed")], ids=["full", "closed"]
)
def test_a_list_that_cannot_be_written_is_told_in_one_line(target, reason, tmp_path):
    command = f"{sys.executable} -m bkdsnn plan table2a --scale smoke >{target}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, f"error: cannot write to standard output: {reason}\n")


# ---- Runs that no table names ----------------------------------------------------------------------------------------


def test_a_file_that_says_what_a_cell_says_is_that_run(mine):
    assert resolution.of_file(mine(overrides={"distill": {"bkd": {"weight": 7e-4}}}), "smoke").spec == STUDENT


def test_a_teacher_with_other_time_steps_is_said_as_in_a_table(mine):
    cell = paper.plan("table3b", "smoke").cell("bkdsnn", "sformer-2-256-t4")
    subject = {key: getattr(cell.column, key) for key in ("dataset", "network", "student", "taught_by", "recipes")}
    by_role = {"student": 4, **cell.column.timesteps}
    changes = {**subject, "timesteps": by_role, "overrides": {"distill": {"bkd": {"weight": 7e-4, "swapped": True}}}}
    found = resolution.of_file(mine(**changes), "smoke").spec
    assert (found.network, found.teacher) == (cell.runs[0].network, cell.runs[0].teacher)


def test_overrides_of_a_file_stand_over_the_scales_and_say_so(mine):
    changes = {
        "recipes": {"*": {"epochs": 3}, "sew-cifar": {"lr": 0.05}},
        "networks": {"resnet20": {"widths": [4, 4, 4]}},
    }
    found = resolution.of_file(mine(overrides=changes, seed=5), "smoke")
    assert (found.spec.recipe.epochs, found.spec.teacher.recipe.epochs, found.spec.recipe.lr) == (3, 3, 0.05)
    assert (found.spec.seed, found.spec.network.widths) == (5, (4, 4, 4))
    assert places(found, "recipe")["epochs"] == "mine.yaml, recipes '*'"
    assert places(found, "network")["timesteps"] == "mine.yaml"
    assert places(found, "network")["blocks"].startswith("config/scales/smoke.yaml")


def test_overrides_without_effect_are_told_once(mine, caplog):
    resolution.of_file(mine(overrides={"recipes": {"ann-cifar": {"epochs": 1}, "vit-cifar": {"epochs": 1}}}), "smoke")
    (told,) = caplog.messages
    assert told.startswith("mine.yaml: overrides of recipes 'vit-cifar' have no effect")


def test_what_show_prints_as_json_describes_the_same_run(mine, capsys):
    mine()
    assert cli.main(["show", "--spec", "mine.yaml", "--scale", "smoke", "--json"]) == 0
    Path("whole.json").write_text(capsys.readouterr().out)
    whole = resolution.of_file(Path("whole.json"), "smoke")
    again = resolution.of_file(Path("mine.yaml"), "smoke").spec
    assert whole.spec.digest == again.digest
    assert (whole.spec.dataset, whole.spec.teacher.dataset) == (again.dataset, again.teacher.dataset)
    assert set(places(whole, "network").values()) == {"whole.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metod": "x"}, "mine.yaml: unknown key 'metod' (did you mean 'method'?)"),
        ({"method": "bkdsn"}, "unknown method 'bkdsn' in mine.yaml (did you mean"),
        ({"dataset": "cifar"}, "unknown dataset 'cifar' in mine.yaml (did you mean 'cifar"),
        ({"network": "resnet21"}, "unknown network 'resnet21' in mine.yaml (did you mean 'resnet"),
        ({"student": None}, "method 'bkdsnn' extends itself (bkdsnn > bkdsnn); expected a 'student'"),
        ({"recipes": {"student": "sew-cifar"}}, "unknown recipe role 'teacher' in mine.yaml; expected one of: student"),
        ({"overrides": {"recipes": {"sew": {}}}}, "unknown recipe 'sew' in mine.yaml (did you mean"),
        ({"overrides": {"recipes": {"sew-cifar": {"epoch": 1}}}}, "unknown key 'epoch' (did you mean 'epochs'?)"),
        (
            {"overrides": {"recipes": {"vit-cifar": {"epoch": 1}}}},
            "mine.yaml, recipes 'vit-cifar': unknown key 'epoch'",
        ),
        ({"overrides": {"networks": {"resnet18": {"blocks": 2}}}}, "mine.yaml, networks 'resnet18': 'blocks': "),
        ({"overrides": {"distill": {"lasnn": {"wieght": 1}}}}, "mine.yaml, distill 'lasnn': unknown key 'wieght'"),
        ({"overrides": {"datasets": {"cifar10": "digit-12"}}}, "unknown dataset 'digit-12' in mine.yaml"),
        ({"timesteps": None}, "mine.yaml: 'timesteps': Field required"),
        ({"method": None}, "mine.yaml: "),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_told(changes, message, mine):
    with pytest.raises(UserError, match=re.escape(message)):
        resolution.of_file(mine(**changes), "smoke")


def test_a_run_of_a_file_is_trained_after_the_runs_and_data_that_it_needs(mine, caplog, capsys):
    found = resolution.of_file(mine(seed=3, overrides={"distill": {"bkd": {"weight": 0.5}}}), "smoke").spec
    assert found.name not in paper.all_runs("smoke", seeds=[3])
    options = ["--spec", "mine.yaml", "--scale", "smoke", "--results", "results"]

    def told(*arguments):
        caplog.clear()
        code = cli.main([*arguments, *options])
        return code, caplog.text

    code, text = told("train")
    first = f"python -m bkdsnn data {found.dataset.name} --spec mine.yaml --scale smoke --results results"
    assert code == 1 and first in text and not Path("results").exists()
    assert told("data", found.dataset.name)[0] == 0
    code, text = told("train")
    assert code == 1 and f"its teacher is not trained; do so by `python -m bkdsnn train {found.teacher.name} " in text
    assert told("train", found.teacher.name)[0] == 0
    assert told("train")[0] == 0
    folder = RunFolder(Path("results/smoke/runs"), found)
    assert folder.finished
    assert RunSpec.model_validate_json((folder.path / "spec.json").read_bytes()).digest == found.digest
    capsys.readouterr()
    assert cli.main(["show", found.name, "--scale", "smoke"]) == 0  # now also without the file
    assert f"run: {found.name}\nstate: finished\n" in capsys.readouterr().out


def test_the_spec_of_a_run_lies_there_before_it_is_trained(tmp_path):
    folder = RunFolder(tmp_path / "runs", STUDENT)
    folder.path.mkdir(parents=True)
    folder.begin("a CPU", None, lambda: 1.0)
    kept = RunSpec.model_validate_json((folder.path / "spec.json").read_bytes())
    assert kept.digest == STUDENT.digest and not folder.finished
