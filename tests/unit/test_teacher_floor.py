"""A teacher that is too weak stops its students before they train."""

import json
import re
import subprocess
import sys

import pytest
from tables_example import IMAGES, example_plan, finish

from bkdsnn import cli
from bkdsnn.config import Recipe, paper
from bkdsnn.core.errors import UserError
from bkdsnn.runs.attempts import expect_able_teacher, guessing
from bkdsnn.runs.run_folder import RunFolder

CHANCE = 10 + 3 * 3.0  # per cent: ten classes, and three standard errors of guesses on 100 images


def student(floor):
    (spec, *_) = example_plan().cell("bkd", "resnet19-cifar10").runs
    recipe = spec.teacher.recipe.model_copy(update={"floor": floor})
    return spec.model_copy(update={"teacher": spec.teacher.model_copy(update={"recipe": recipe})})


def stated(run):
    return f"the file of {run.name}"


def test_guessing_is_chance_and_three_standard_errors():
    assert guessing(10, IMAGES) == pytest.approx(CHANCE)
    assert guessing(2, 10_000) == pytest.approx(51.5)


@pytest.mark.parametrize(
    ("floor", "right", "bound"),
    [
        (None, 18, r"19\.00 %, which guessing among 10 classes may reach \('floor' is not stated\)"),
        (None, 0, r"19\.00 %"),
        (60.0, 59, r"60\.00 %, the 'floor' of its recipe in the file of .*-ann-.*; correct how"),
        (15.0, 14, r"15\.00 %, the 'floor' of its recipe"),
    ],
)
def test_a_teacher_below_the_bound_stops_its_student_which_counts_as_failed(floor, right, bound, tmp_path):
    spec = student(floor)
    finish(spec.teacher, tmp_path, range(right))
    folder = RunFolder(tmp_path / "runs", spec)
    message = (
        rf"run {spec.name}: its teacher {spec.teacher.name} has a top-1 accuracy of {right}\.00 %, expected at least "
    )
    with pytest.raises(UserError, match=message + bound):
        expect_able_teacher(folder, stated)
    assert re.match(message, json.loads(folder.failure.read_text())["message"])


@pytest.mark.parametrize(("floor", "right"), [(None, 19), (60.0, 60), (15.0, 15), (0.0, 0)])
def test_a_teacher_at_the_bound_may_teach(floor, right, tmp_path):
    spec = student(floor)
    finish(spec.teacher, tmp_path, range(right))
    expect_able_teacher(RunFolder(tmp_path / "runs", spec), stated)


def test_runs_that_are_finished_or_have_no_finished_teacher_are_left_alone(tmp_path):
    spec = student(60.0)
    expect_able_teacher(RunFolder(tmp_path / "runs", spec), stated)  # the teacher is not trained
    expect_able_teacher(RunFolder(tmp_path / "runs", spec.teacher), stated)  # it has none
    finish(spec.teacher, tmp_path, range(10))
    finish(spec, tmp_path, range(50))
    expect_able_teacher(RunFolder(tmp_path / "runs", spec), stated)


def test_the_floor_decides_no_name_and_is_in_the_description():
    one, other = student(None), student(60.0)
    assert (one.name, one.digest) == (other.name, other.digest)
    assert json.loads(other.canonical())["teacher"]["recipe"]["floor"] == 60.0


def test_scales_other_than_smoke_ask_for_more_than_guessing():
    for scale, floor in (("smoke", 0.0), ("demo", None), ("lite", None), ("paper", None)):
        (run, *_) = paper.plan("table2a", scale).cell("bkdsnn", "resnet20-cifar10").runs
        assert run.teacher.recipe.floor == floor


@pytest.mark.parametrize("floor", [-1, 100.5])
def test_a_floor_is_a_percentage(floor):
    with pytest.raises(ValueError, match="floor"):
        Recipe(epochs=1, batch_size=1, optimizer="sgd", lr=0.1, floor=floor)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A student described in a file with a floor of 80 %, and its teacher, with 30 %."""
    monkeypatch.chdir(tmp_path)
    recipes = {"student": "sew-cifar", "teacher": "ann-cifar"}
    text = {"method": "bkdsnn", "student": "sew-resnet", "dataset": "cifar10", "network": "resnet20", "timesteps": 4}
    text |= {"recipes": recipes, "overrides": {"recipes": {"ann-cifar": {"floor": 80}}}}
    (tmp_path / "mine.yaml").write_text(json.dumps(text))
    (spec,) = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs
    finish(spec.teacher, tmp_path / "results" / "smoke", range(30), dataset={"name": "", "label": "", "digest": "d"})
    return spec


def test_the_command_line_names_the_file_that_states_the_floor_before_torch_is_imported(mine):
    options = ["train", "--spec", "mine.yaml", "--scale", "smoke", "--results", "results"]
    code = f"import sys\nfrom bkdsnn import cli\nprint(cli.main({options}), 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "False"]
    assert f"run {mine.name}: its teacher {mine.teacher.name} has a top-1 accuracy of 30.00 %" in ended.stderr
    assert "at least 80.00 %, the 'floor' of its recipe in mine.yaml, recipes 'ann-cifar'" in ended.stderr


def test_a_retry_says_the_same(mine, capsys, caplog):
    options = ["train", "--spec", "mine.yaml", "--scale", "smoke", "--results", "results"]
    for attempt in ("1", "2"):
        caplog.clear()
        assert cli.main([*options, "--attempt", attempt]) == 1
        assert "expected at least 80.00 %" in caplog.text and "saved nothing" not in caplog.text
