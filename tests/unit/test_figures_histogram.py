"""Figure 2b: shares against hand-worked numbers; student and teacher on equal axes."""

import json

import pytest
from figures_example import R18, drawn_picture, figure_plan, pdf_text, records

from bkdsnn.analysis.feature_histograms import Histogram, features_path
from bkdsnn.core.errors import UserError
from bkdsnn.report.figures.draw import draw
from bkdsnn.report.figures.histogram import reach

PANEL = {**R18, "curves": [{"label": "Student SNN", "row": "bkd"}, {"label": "Teacher ANN", "row": "ann"}]}
STUDENT = {"discrete": True, "step": 0.25, "zeros": 600, "mean": 0.2, "counts": {"0": 600, "1": 300, "4": 100}}
TEACHER = {"discrete": False, "step": 0.05, "zeros": 20, "mean": 0.1, "counts": {"-2": 10, "0": 30, "7": 60}}


def analyse(plan, results, *histograms):
    """Write the analysis of a plan's runs with these histograms."""
    content = [
        {"run": run.name, "spec": run.digest, "tap": "stage4", "entries": sum(one["counts"].values()), **one}
        for run, one in zip(plan.runs().values(), histograms, strict=True)
    ]
    path = features_path(plan, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figure": plan.figure.name, "histograms": content}))


@pytest.fixture
def plan(tmp_path):
    made = figure_plan("histogram", PANEL)
    analyse(made, tmp_path, STUDENT, TEACHER)
    return made


def test_the_csv_has_every_value_and_bin(plan, tmp_path):
    rows = records(draw(plan, tmp_path, tmp_path / "out"))
    found = [(row["curve"], row["discrete"], float(row["from"]), float(row["to"]), int(row["count"])) for row in rows]
    assert found == [
        ("Student SNN", "true", 0, 0, 600),
        ("Student SNN", "true", 0.25, 0.25, 300),
        ("Student SNN", "true", 1, 1, 100),
        ("Teacher ANN", "false", -0.1, -0.05, 10),
        ("Teacher ANN", "false", 0, 0.05, 30),
        ("Teacher ANN", "false", 0.35, 0.4, 60),
    ]
    assert [(row["entries"], row["zeros"]) for row in rows] == [("1000", "600")] * 3 + [("100", "20")] * 3


def test_the_student_is_lines_the_teacher_bars_on_equal_axes(plan, tmp_path, monkeypatch):
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    student, teacher = picture.axes
    assert (list(student.lines[0].get_xdata()), list(student.lines[0].get_ydata())) == ([0, 0.25, 1], [60, 30, 10])
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in teacher.patches]
    assert bars == [pytest.approx(bar) for bar in ((-0.1, 0.05, 10), (0, 0.05, 30), (0.35, 0.05, 60))]
    assert student.get_xlim() == teacher.get_xlim() and student.get_ylim() == teacher.get_ylim()
    assert student.get_yscale() == teacher.get_yscale() == "log"
    low, high = student.get_xlim()
    assert low < -0.1 and high > 1
    assert student.get_ylim()[0] < 10 and student.get_ylim()[1] > 100
    text = " ".join(pdf_text(paths["pdf"]).split())
    assert "Student SNN multiples of 0.25 60.0 % are 0" in text
    assert "Teacher ANN bins of 0.05 20.0 % are 0" in text
    assert "Smoke scale: tens of images" in text and "beyond" not in text


def test_a_long_tail_is_cut_and_the_cut_is_told(tmp_path, monkeypatch):
    plan = figure_plan("histogram", PANEL)
    analyse(plan, tmp_path, STUDENT, {**TEACHER, "counts": {"0": 9990, "20": 6, "4000": 4}, "zeros": 1})
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert picture.axes[0].get_xlim()[1] < 2
    assert "0.04 % beyond the axis" in " ".join(pdf_text(paths["pdf"]).split())
    assert records(paths)[-1]["from"] == "200.0"


@pytest.mark.parametrize(
    ("counts", "discrete", "expected"),
    [
        ({0: 1000}, True, (0, 0)),
        ({0: 1000}, False, (0, 0.25)),
        ({-4: 1, 0: 998, 4: 1}, True, (0, 0)),
        ({-4: 2, 0: 996, 4: 2}, True, (-1, 1)),
        ({-4: 2, 0: 996, 4: 2}, False, (-1, 1.25)),
    ],
)
def test_the_axis_reaches_over_all_but_a_thousandth_at_each_end(counts, discrete, expected):
    made = Histogram(
        run="r", spec="s", tap="t", discrete=discrete, step=0.25, entries=1000, zeros=0, mean=0, counts=counts
    )
    assert reach(made) == expected


def test_networks_that_are_silent_are_drawn(tmp_path):
    plan = figure_plan("histogram", PANEL)
    silent = {"discrete": True, "step": 0.25, "zeros": 50, "mean": 0.0, "counts": {"0": 50}}
    analyse(plan, tmp_path, silent, silent)
    assert "100.0 % are 0" in pdf_text(draw(plan, tmp_path, tmp_path / "out")["pdf"])


def test_panels_stand_side_by_side(tmp_path, monkeypatch):
    other = {**PANEL, "title": "R-34", "column": "resnet34-imagenet", "curves": PANEL["curves"][:1]}
    plan = figure_plan("histogram", PANEL, other)
    analyse(plan, tmp_path, STUDENT, TEACHER, STUDENT)
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    places = [axes.get_subplotspec() for axes in picture.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (1, 0)]
    assert [axes.get_xlabel() != "" for axes in picture.axes] == [False, True, True]


def test_files_are_the_same_on_every_call(plan, tmp_path):
    first, second = (draw(plan, tmp_path, tmp_path / name) for name in ("one", "two"))
    assert all(first[suffix].read_bytes() == second[suffix].read_bytes() for suffix in ("png", "pdf", "csv"))
    assert first["png"].stat().st_size > 10_000 and first["pdf"].stat().st_size > 5_000


def test_an_analysis_of_other_runs_leaves_the_old_drawing(plan, tmp_path):
    paths = draw(plan, tmp_path, tmp_path / "out")
    before = {suffix: path.read_bytes() for suffix, path in paths.items()}
    analyse(figure_plan("histogram", PANEL, seeds=(1,)), tmp_path, STUDENT, TEACHER)
    with pytest.raises(UserError, match="it was made for other runs"):
        draw(plan, tmp_path, tmp_path / "out")
    assert {suffix: path.read_bytes() for suffix, path in paths.items()} == before
