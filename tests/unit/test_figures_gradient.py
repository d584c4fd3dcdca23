"""Figure A1: surrogates against closed forms, measured gradients against hand-worked means."""

import math

import numpy as np
import pytest
from figures_example import LOSSES, R18, drawn_picture, figure_plan, finish, pdf_text, records, remarks_of
from matplotlib.colors import to_hex

from bkdsnn.config import Neuron
from bkdsnn.core.errors import UserError
from bkdsnn.report.figures import style
from bkdsnn.report.figures.draw import draw
from bkdsnn.report.figures.gradient import V, surrogate

BKD = {**R18, "curves": [LOSSES[2]]}
FIRST = [(1e-3, 1e-5, 0.1), (2e-3, 2e-5, 0.2), (4e-3, 4e-5, -0.3)]
SECOND = [(3e-3, 3e-5, 0.3), (2e-3, 6e-5, 0.4), (4e-3, 8e-5, -0.5)]


def neuron(kind, alpha):
    return Neuron(kind="if", surrogate=kind, alpha=alpha)


# Eq. A2; the SEW reference's arctangent; the integral of TET's triangle and of a rectangle
CLOSED = {
    ("sigmoid", 4.0): lambda v: 1 / (1 + np.exp(-4 * v)),
    ("sigmoid", 2.5): lambda v: 1 / (1 + np.exp(-2.5 * v)),
    ("atan", 2.0): lambda v: np.arctan(math.pi / 2 * 2 * v) / math.pi + 0.5,
    ("triangle", 1.0): lambda v: 0.5 + np.sign(v) * (np.abs(v).clip(max=1) - np.abs(v).clip(max=1) ** 2 / 2),
    ("rectangle", 1.0): lambda v: (v + 0.5).clip(0, 1),
}


@pytest.mark.parametrize(("kind", "alpha"), CLOSED)
def test_the_surrogate_is_the_closed_form_whose_derivative_training_uses(kind, alpha):
    value, derivative = surrogate(neuron(kind, alpha))
    closed = CLOSED[kind, alpha]
    jump = 0.006 if kind == "rectangle" else 1e-4  # half a step of V, where the derivative jumps
    np.testing.assert_allclose(value, closed(V), atol=jump)
    h = 1e-6
    smooth = np.abs(np.abs(V) - (0.5 if kind == "rectangle" else 1)) > 0.02
    np.testing.assert_allclose(derivative[smooth], ((closed(V + h) - closed(V - h)) / (2 * h))[smooth], atol=1e-5)


def test_the_surrogate_of_the_paper_has_slope_one_at_the_threshold():
    value, derivative = surrogate(neuron("sigmoid", 4.0))
    middle = list(V).index(0.0)
    assert (value[middle], derivative[middle]) == (0.5, 1.0)
    assert derivative[middle + 50] == pytest.approx(4 * value[middle + 50] * (1 - value[middle + 50]), abs=1e-4)


@pytest.fixture
def two_seeds(tmp_path):
    plan = figure_plan("gradient", BKD, seeds=(0, 1))
    for run, gradients in zip(plan.panels[0].curves[0].runs, (FIRST, SECOND)):
        finish(run, tmp_path, (10, 20, 30), gradients=gradients)
    return plan


def test_the_csv_has_means_and_deviations_of_what_was_measured(two_seeds, tmp_path):
    rows = [row for row in records(draw(two_seeds, tmp_path, tmp_path / "out")) if row["curve"] == "+L_BKD"]
    found = {(row["quantity"], int(row["x"])): (float(row["mean"]), float(row["std"])) for row in rows}
    root = 2**0.5
    assert found == {
        ("bkd", 1): pytest.approx((2e-5, 2e-5 / root)),
        ("bkd", 2): pytest.approx((4e-5, 4e-5 / root)),
        ("bkd", 3): pytest.approx((6e-5, 4e-5 / root)),
        ("task", 1): pytest.approx((2e-3, 2e-3 / root)),
        ("task", 2): pytest.approx((2e-3, 0)),
        ("task", 3): pytest.approx((4e-3, 0)),
        ("cosine", 1): pytest.approx((0.2, 0.2 / root)),
        ("cosine", 2): pytest.approx((0.3, 0.2 / root)),
        ("cosine", 3): pytest.approx((-0.4, 0.2 / root)),
    }
    assert {row["n"] for row in rows} == {"2"}


def test_the_csv_has_the_curves_on_the_left(two_seeds, tmp_path):
    rows = records(draw(two_seeds, tmp_path, tmp_path / "out"))
    at = {(row["curve"], row["quantity"]): float(row["mean"]) for row in rows if row["x"] == "0.5"}
    assert at["Heaviside", "step"] == 1
    assert at["sigmoid, alpha = 4", "surrogate"] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-4)
    assert at["atan, alpha = 2", "surrogate"] == pytest.approx(0.5 + math.atan(math.pi / 2) / math.pi, abs=1e-4)
    assert at["atan, alpha = 2", "derivative"] == pytest.approx(1 / (1 + (math.pi / 2) ** 2))
    assert len(at) == 5
    steps = {row["x"]: float(row["mean"]) for row in rows if row["quantity"] == "step"}
    assert (steps["-0.010000000000000009"], steps["0.0"]) == (0, 1)


def test_the_axes_show_what_the_csv_has(two_seeds, tmp_path, monkeypatch):
    paths, picture = drawn_picture(monkeypatch, two_seeds, tmp_path, tmp_path / "out")
    left, rms, cosine = picture.axes
    assert (rms.get_yscale(), cosine.get_yscale(), cosine.get_xlabel()) == ("log", "linear", "epoch")
    rows = records(paths)
    for axes, index, quantity in ((rms, 0, "bkd"), (rms, 1, "task"), (cosine, 0, "cosine")):
        own = [float(row["mean"]) for row in rows if row["quantity"] == quantity]
        assert list(axes.lines[index].get_ydata()) == own
        low, high = axes.get_ylim()
        assert low < min(own) and max(own) < high
    assert to_hex(rms.lines[0].get_color()) == style.METHODS["bkd"].color
    assert len(left.lines) == 5
    assert "Smoke scale: tens of images" in " ".join(pdf_text(paths["pdf"]).split())
    assert "first step of each epoch" in remarks_of(picture)


def test_a_run_with_the_papers_neuron_shows_one_surrogate(tmp_path, monkeypatch):
    panel = {"title": "S", "table": "table4b", "column": "sformer-8-384-imagenet", "curves": [LOSSES[2]]}
    plan = figure_plan("gradient", panel)
    finish(plan.panels[0].curves[0].runs[0], tmp_path, (10, 20, 30), gradients=FIRST)
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    labels = [text.get_text() for text in picture.axes[0].get_legend().get_texts()]
    assert labels == ["step Θ", r"sigmoid, $\alpha$ = 4", "its derivative"]
    assert {row["std"] for row in records(paths)} == {""}


def test_several_panels_and_curves_are_told_apart(tmp_path, monkeypatch):
    panels = [{**R18, "title": title, "curves": [LOSSES[2], LOSSES[3]]} for title in ("one", "two")]
    plan = figure_plan("gradient", *panels)
    for run in plan.runs().values():
        finish(run, tmp_path, (10, 20, 30), gradients=FIRST)
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert len(picture.axes) == 6
    for axes in (axes for axes in picture.axes if axes.get_yscale() == "log"):
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert len(labels) == len(set(labels)) == 4


def test_files_are_the_same_on_every_call(two_seeds, tmp_path):
    first, second = (draw(two_seeds, tmp_path, tmp_path / name) for name in ("one", "two"))
    assert all(first[suffix].read_bytes() == second[suffix].read_bytes() for suffix in ("png", "pdf", "csv"))


def test_gradients_that_vanish_are_drawn(tmp_path):
    plan = figure_plan("gradient", BKD)
    finish(plan.panels[0].curves[0].runs[0], tmp_path, (10, 20, 30), gradients=[(0.0, 0.0, 0.0)] * 3)
    assert float(records(draw(plan, tmp_path, tmp_path / "out"))[-1]["mean"]) == 0


def test_a_history_of_an_earlier_version_is_refused_with_what_to_do(two_seeds, tmp_path):
    run = two_seeds.panels[0].curves[0].runs[1]
    folder = finish(run, tmp_path, (10, 20, 30), gradients=SECOND[:1])
    message = rf"{run.name}/history\.jsonl: no 'gradients' in epoch 2: the run is of an earlier version"
    with pytest.raises(UserError, match=message) as told:
        draw(two_seeds, tmp_path, tmp_path / "out")
    assert f"remove {folder} and make it again with `snakemake" in str(told.value)


@pytest.mark.parametrize("gradients", [(math.nan, 1.0, 0.0), (1.0, -1.0, 0.0), (1.0, math.inf, 0.0), (1.0, 1.0, 1.5)])
def test_gradients_that_cannot_be_are_refused(two_seeds, tmp_path, gradients):
    finish(two_seeds.panels[0].curves[0].runs[0], tmp_path, (10, 20, 30), gradients=[*FIRST[:2], gradients])
    with pytest.raises(UserError, match=r"history\.jsonl, line 3: 'gradients\.(task|bkd|cosine)'"):
        draw(two_seeds, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(("row", "method"), [("ld", "ld"), ("none", "ce"), ("ann", "ce")])
def test_a_run_without_the_loss_is_a_mistake_in_the_figure(tmp_path, row, method):
    plan = figure_plan("gradient", {**R18, "curves": [{"label": "x", "row": row}]})
    finish(plan.panels[0].curves[0].runs[0], tmp_path, (10, 20, 30))
    with pytest.raises(UserError, match=rf"whose method is '{method}'; expected one with L_BKD.*fig9z\.yaml"):
        draw(plan, tmp_path, tmp_path / "out")


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no .*metrics\.json; make it with `snakemake --cores all fig9z"):
        draw(figure_plan("gradient", BKD), tmp_path, tmp_path / "out")
