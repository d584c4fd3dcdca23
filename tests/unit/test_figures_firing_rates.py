"""Figures A2 and A3: rates by block against hand-worked means."""

import json

import pytest
from figures_example import LOSSES, drawn_picture, figure_plan, pdf_text, records, remarks_of

from bkdsnn.analysis.activity_records import activity_path
from bkdsnn.config import paper
from bkdsnn.config.figure_plans import load_figure, plan_figure
from bkdsnn.core.errors import UserError
from bkdsnn.report.figures import style
from bkdsnn.report.figures.draw import draw

PANEL = {"title": "S, ImageNet", "table": "table4b", "column": "sformer-8-384-imagenet", "curves": LOSSES[:2]}
QUANTITIES = ("q", "k", "v", "attention")


def analyse(run, results, *blocks, **changes):
    """Write the analysis of a run whose blocks have these rates of q, k, v and attention."""
    layer = {"name": "head", "kind": "linear", "macs": 10, "passes": 4, "rate": 0.1, "binary": True, "integer": True}
    content = {
        "run": run.name,
        "spec": run.digest,
        "mac_layers": {},
        "spiking": True,
        "timesteps": run.network.timesteps,
        "test_images": 100,
        "top1": 50.0,
        "feature": {"tap": "embedding", "mean": 0.1, "nonzero": 0.1, "binary": True, "integer": True},
        "blocks": [{"name": f"blocks.{i}", **dict(zip(QUANTITIES, rates))} for i, rates in enumerate(blocks)],
        "neurons": {},
        "layers": [layer],
        **changes,
    }
    path = activity_path(run.name, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def two_seeds(tmp_path):
    """Two curves of two blocks and two seeds."""
    plan = figure_plan("firing-rates", PANEL, seeds=(0, 1))
    none, ld = plan.panels[0].curves
    analyse(none.runs[0], tmp_path, (0.01, 0.02, 0.03, 0.04), (0.11, 0.12, 0.13, 0.14))
    analyse(none.runs[1], tmp_path, (0.03, 0.02, 0.05, 0.08), (0.11, 0.16, 0.13, 0.16))
    for run in ld.runs:
        analyse(run, tmp_path, (0.5, 0.6, 0.7, 0.8), (0.2, 0.3, 0.4, 1.0))
    return plan


def test_the_csv_has_per_cent_mean_and_sample_deviation(two_seeds, tmp_path):
    rows = records(draw(two_seeds, tmp_path, tmp_path / "out"))
    found = {
        (row["curve"], row["quantity"], int(row["block"])): (float(row["rate_mean"]), float(row["rate_std"]))
        for row in rows
    }
    root = 2**0.5
    assert len(rows) == len(found) == 2 * 4 * 2
    assert found["w/o KD", "q", 1] == pytest.approx((2, 2 / root))
    assert found["w/o KD", "k", 1] == pytest.approx((2, 0))
    assert found["w/o KD", "v", 1] == pytest.approx((4, 2 / root))
    assert found["w/o KD", "attention", 1] == pytest.approx((6, 4 / root))
    assert found["w/o KD", "k", 2] == pytest.approx((14, 4 / root))
    assert found["+L_LD", "attention", 2] == pytest.approx((100, 0))
    assert {(row["n"], row["seeds"]) for row in rows} == {("2", "0;1")}


def test_each_quantity_has_its_place_and_each_curve_its_line(two_seeds, tmp_path, monkeypatch):
    paths, picture = drawn_picture(monkeypatch, two_seeds, tmp_path, tmp_path / "out")
    rows = records(paths)
    assert [axes.get_title() for axes in picture.axes] == ["$Q$", "$K$", "$V$", "attention"]
    for axes, quantity in zip(picture.axes, QUANTITIES, strict=True):
        drawn = [list(container.lines[0].get_ydata()) for container in axes.containers]
        expected = [
            [float(row["rate_mean"]) for row in rows if (row["curve"], row["quantity"]) == (curve, quantity)]
            for curve in ("w/o KD", "+L_LD")
        ]
        assert drawn == expected
        assert list(axes.get_xticks()) == [1, 2]
    legend = picture.axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["w/o KD", style.mathtext("+L_LD")]
    text = " ".join(pdf_text(paths["pdf"]).split())
    assert "Smoke scale: tens of images" in text and "Seeds: 0, 1. Markers: mean over seeds" in text


def test_one_block_of_one_seed_shows_its_markers(tmp_path, monkeypatch):
    plan = figure_plan("firing-rates", {**PANEL, "curves": LOSSES})
    for run in plan.runs().values():
        analyse(run, tmp_path, (0.1, 0.1, 0.1, 0.1))
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    places = set()
    for container in picture.axes[0].containers:
        (line, caps, bars) = container.lines
        assert line.get_marker() != "None" and not caps and not bars
        places.add(float(line.get_xdata()[0]))
    assert len(places) == 4 and all(0.8 < place < 1.2 for place in places)  # side by side where rates are equal
    assert {row["rate_std"] for row in records(paths)} == {""}
    assert "deviation" not in remarks_of(picture)


def test_curves_may_have_differing_depths(tmp_path, monkeypatch):
    plan = figure_plan("firing-rates", PANEL)
    for run, depth in zip(plan.runs().values(), (1, 3)):
        analyse(run, tmp_path, *[(0.1, 0.2, 0.3, 0.4)] * depth)
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert list(picture.axes[0].get_xticks()) == [1, 2, 3]
    assert len(records(paths)) == 4 + 12


def test_figure_a2_has_three_rows_of_four(tmp_path, monkeypatch):
    plan = plan_figure(paper.Expansion("smoke"), load_figure("figA2"))
    for run in plan.runs().values():
        analyse(run, tmp_path, *[(0.1, 0.2, 0.3, 0.4)] * run.network.depth)
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    places = [axes.get_subplotspec() for axes in picture.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (row, column) for row in range(3) for column in range(4)
    ]
    titles = [axes.get_legend().get_title().get_text() for axes in picture.axes[3::4]]
    assert titles == [
        "Spikingformer-4-384-400E,\nCIFAR-10",
        "Spikingformer-4-384-400E,\nCIFAR-100",
        "Spikingformer-8-$D$,\nImageNet",
    ]


def test_files_are_the_same_on_every_call(two_seeds, tmp_path):
    first, second = (draw(two_seeds, tmp_path, tmp_path / name) for name in ("one", "two"))
    assert all(first[suffix].read_bytes() == second[suffix].read_bytes() for suffix in ("png", "pdf", "csv"))


def test_a_missing_analysis_is_named_with_the_commands(two_seeds, tmp_path):
    run = two_seeds.panels[0].curves[1].runs[0]
    activity_path(run.name, tmp_path).unlink()
    with pytest.raises(UserError, match=rf"no .*analyses/{run.name}/activity\.json; make it with `snakemake") as told:
        draw(two_seeds, tmp_path, tmp_path / "out")
    assert f"`python -m bkdsnn activity {run.name} --scale smoke`" in str(told.value)


def test_an_analysis_of_another_run_is_refused(two_seeds, tmp_path):
    run = two_seeds.panels[0].curves[1].runs[0]
    analyse(run, tmp_path, (0.1, 0.1, 0.1, 0.1), spec="0" * 64)
    with pytest.raises(UserError, match=r"activity\.json: 'spec' is '0+', expected"):
        draw(two_seeds, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_that_cannot_be_are_refused(two_seeds, tmp_path, rate):
    run = two_seeds.panels[0].curves[1].runs[0]
    path = analyse(run, tmp_path, (0.1, 0.1, rate, 0.1))
    with pytest.raises(UserError, match=r"activity\.json: 'blocks\.0\.v'"):
        draw(two_seeds, tmp_path, tmp_path / "out")
    path.write_text("{")
    with pytest.raises(UserError, match=r"activity\.json: Invalid JSON"):
        draw(two_seeds, tmp_path, tmp_path / "out")


def test_seeds_with_differing_depths_are_refused(two_seeds, tmp_path):
    run = two_seeds.panels[0].curves[0].runs[1]
    analyse(run, tmp_path, (0.1, 0.1, 0.1, 0.1))
    with pytest.raises(UserError, match=rf"{run.name}.*1 blocks, expected 2"):
        draw(two_seeds, tmp_path, tmp_path / "out")


def test_a_network_without_spiking_attention_is_a_mistake_in_the_figure(tmp_path):
    panel = {"title": "R", "table": "table4b", "column": "resnet18-imagenet", "curves": LOSSES[:1]}
    plan = figure_plan("firing-rates", panel)
    analyse(plan.panels[0].curves[0].runs[0], tmp_path)
    with pytest.raises(
        UserError, match=r"network 'resnet18' has no spiking attention; mend config/figures/fig9z\.yaml"
    ):
        draw(plan, tmp_path, tmp_path / "out")
