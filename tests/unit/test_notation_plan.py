"""Table 1 as data: which run is looked into, and mistakes in its file."""

import os
import shutil
import subprocess
import sys

import pytest

from bkdsnn.config import catalogue, paper
from bkdsnn.core.errors import UserError
from bkdsnn.report.notation.notation_plan import load_notation, plan_notation

EXPANSION = paper.Expansion("smoke")
PLAN = plan_notation(EXPANSION, load_notation())
# The smoke scale by hand: T, batch, classes, widths of student and teacher, and the student's grid.
T, B, K, STUDENT, TEACHER, GRID = 4, 10, 100, 16, 24, 2


def edited(old, new, folder):
    """The notation of a user who put `new` in the place of `old`."""
    shutil.copytree(catalogue.CONFIG, folder / "config")
    path = folder / "config" / "notation.yaml"
    assert path.read_text().count(old) >= 1
    path.write_text(path.read_text().replace(old, new, 1))
    return load_notation(folder / "config")


@pytest.mark.parametrize("scale", ["demo", "smoke", "lite", "paper"])
def test_the_run_is_one_of_its_table_and_its_widths_differ(scale):
    plan = plan_notation(paper.Expansion(scale), load_notation())
    assert plan.runs().items() <= paper.plan("table2d", scale).runs().items()
    assert list(plan.runs().values()) == [plan.spec.teacher, plan.spec]
    assert plan.spec.network.dim != plan.spec.teacher.network.dim
    assert (plan.stands_in_for is None) == (scale == "paper")


def test_planning_imports_nothing_heavy():
    heavy = ("torch", "numpy", "pandas", "tabulate")
    code = f"import sys, bkdsnn.report.notation.notation_plan; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


# --- what a user may get wrong


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "shape: [b, c_tea, 1, 1]",
            "shape: [b, c_teacher, 1, 1]",
            "config/notation.yaml: .*'random_matrix' has an axis 'c_teacher', expected",
        ),
        ("key: blur_mask", "key: random_matrix", "2 entries have the key 'random_matrix'"),
        ("symbol: y_stu, y_tea", "symbol: y", "'latex' has 2 symbols and 'symbol' 1"),
        ("  h: {", "  d: {latex: d, description: depth}\n  h: {", "no entry has an axis 'd'"),
        ("code: spec.network.timesteps", "code: os.system", "String should match pattern"),
        ("symbol: R", "symbl: R", "unknown key 'entries.2.symbl'"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        edited(old, new, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table: table2d", "table: table9", "unknown table 'table9' in config/notation.yaml"),
        ("row: bkdsnn", "row: bkdsn", r"unknown row of 'table2d' 'bkdsn' .*did you mean 'bkdsnn'"),
        ("8-384-imagenet", "8-386-imagenet", "unknown column of 'table2d' 'sformer-8-386-imagenet'"),
        ("row: bkdsnn", "row: kdsnn", "'run' has the terms kdsnn; expected 'ld', and 'bkd'"),
        ("row: bkdsnn", "row: spikingformer", "'run' has the terms none; expected"),
    ],
)
def test_a_run_that_cannot_be_looked_into_is_refused(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        plan_notation(EXPANSION, edited(old, new, tmp_path))


# --- values that would be wrong
