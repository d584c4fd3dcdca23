"""Accuracy by epoch and by time: numbers against hand-worked ones, and runs that are not to be trusted."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from figures_example import (
    CPU,
    LOSSES,
    R18,
    drawn_picture,
    figure_plan,
    finish,
    finish_all,
    pdf_text,
    provenance,
    records,
    remarks_of,
)
from matplotlib.text import Text

from bkdsnn.config import paper
from bkdsnn.config.figure_plans import load_figure, plan_figure
from bkdsnn.core.errors import UserError
from bkdsnn.machine import devices
from bkdsnn.report.figures import style
from bkdsnn.report.figures.curves import ON_CPU, apart
from bkdsnn.report.figures.draw import draw

PANEL = {**R18, "curves": [LOSSES[0], LOSSES[3]]}
GPU = "NVIDIA H200"


@pytest.fixture(params=["accuracy-by-epoch", "accuracy-by-time"])
def kind(request):
    return request.param


@pytest.fixture
def two_seeds(tmp_path):
    """A panel of two curves and seeds; seed 1 is twice as slow."""

    def make(kind, device=CPU):
        plan = figure_plan(kind, PANEL, seeds=(0, 1))
        (none, md) = plan.panels[0].curves
        finish(none.runs[0], tmp_path, (10, 20, 30), (10, 10, 10), device=device)
        finish(none.runs[1], tmp_path, (14, 26, 33), (20, 20, 20), device=device)
        finish(md.runs[0], tmp_path, (11, 21, 31), (30, 10, 20), device=device)
        finish(md.runs[1], tmp_path, (11, 21, 31), (30, 10, 20), device=device)
        return plan

    return make


def test_the_csv_has_mean_and_sample_deviation_of_seeds(two_seeds, tmp_path, kind):
    rows = records(draw(two_seeds(kind), tmp_path, tmp_path / "out"))
    assert [(row["curve"], row["epoch"]) for row in rows] == [(c, e) for c in ("w/o KD", "+L_MD") for e in "123"]
    assert [float(row["top1_mean"]) for row in rows] == [12, 23, 31.5, 11, 21, 31]
    assert [float(row["top1_std"]) for row in rows] == pytest.approx([4 / 2**0.5, 6 / 2**0.5, 3 / 2**0.5, 0, 0, 0])
    assert [float(row["seconds"]) for row in rows] == [15, 30, 45, 30, 40, 60]
    assert {(row["panel"], row["n"], row["seeds"], row["figure"]) for row in rows} == {("R-18", "2", "0;1", "fig9z")}


def test_lines_bands_and_last_values_are_those_of_the_csv(two_seeds, tmp_path, monkeypatch):
    paths, picture = drawn_picture(monkeypatch, two_seeds("accuracy-by-time"), tmp_path, tmp_path / "out")
    (axes,) = picture.axes
    rows = records(paths)
    for line, curve in zip(axes.lines, ("w/o KD", "+L_MD")):
        own = [row for row in rows if row["curve"] == curve]
        assert list(line.get_xdata()) == [float(row["seconds"]) for row in own]
        assert list(line.get_ydata()) == [float(row["top1_mean"]) for row in own]
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((12 - 4 / 2**0.5, 31.5 + 3 / 2**0.5))
    assert sorted(text.get_text() for text in axes.texts) == [
        f"{value}\N{THIN SPACE}±\N{THIN SPACE}{std}" for value, std in (("31.00", "0.00"), ("31.50", "2.12"))
    ]
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["w/o KD", style.mathtext("+L_MD")]


def test_one_seed_has_no_deviation_and_no_band(tmp_path, monkeypatch):
    plan = figure_plan("accuracy-by-epoch", PANEL)
    paths, picture = drawn_picture(monkeypatch, plan, finish_all(plan, tmp_path), tmp_path / "out")
    assert {(row["top1_std"], row["n"]) for row in records(paths)} == {("", "1")}
    assert not picture.axes[0].collections
    text = pdf_text(paths["pdf"])
    assert "30.00" in text and "33.00" in text and "±" not in text


def test_files_are_there_and_the_same_on_every_call(two_seeds, tmp_path, kind):
    plan = two_seeds(kind)
    first, second = (draw(plan, tmp_path, tmp_path / name) for name in ("one", "two"))
    assert first.keys() == {"png", "pdf", "csv"}
    assert all(first[suffix].read_bytes() == second[suffix].read_bytes() for suffix in first)
    assert first["png"].stat().st_size > 20_000 and first["pdf"].stat().st_size > 8_000


def test_the_picture_says_scale_data_and_seeds(two_seeds, tmp_path, kind):
    text = " ".join(pdf_text(draw(two_seeds(kind), tmp_path, tmp_path / "out")["pdf"]).split())
    assert "Smoke scale: tens of images" in text
    assert "stands in for ImageNet. Seeds: 0, 1." in text
    assert "Lines: mean over seeds; bands: ± one sample standard deviation." in text


@pytest.mark.parametrize(
    ("device", "factor", "label", "last"),
    [
        (CPU, 1, "training time (CPU, s)", 45),
        (CPU, 100, "training time (CPU, min)", 75),
        (CPU, 3600, "training time (CPU, h)", 45),
        (GPU, 1, "GPU seconds", 45),
        (GPU, 3600, "GPU hours", 45),
    ],
)
def test_time_has_the_unit_that_fits_and_is_of_gpus_only_on_gpus(tmp_path, monkeypatch, device, factor, label, last):
    plan = figure_plan("accuracy-by-time", {**R18, "curves": LOSSES[:1]})
    (run,) = plan.runs().values()
    finish(run, tmp_path, (10, 20, 30), [15 * factor] * 3, device=device)
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert picture.axes[0].get_xlabel() == label
    assert picture.axes[0].lines[0].get_xdata()[-1] == pytest.approx(last)
    assert float(records(paths)[-1]["seconds"]) == 45 * factor
    assert f"Device: {device}." in " ".join(pdf_text(paths["pdf"]).split())


def test_runs_on_differing_devices_are_told(tmp_path, monkeypatch):
    plan = figure_plan("accuracy-by-time", PANEL)
    for run, device in zip(plan.runs().values(), (CPU, GPU), strict=True):
        finish(run, tmp_path, (10, 20, 30), device=device)
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert picture.axes[0].get_xlabel() == "training time (s)"
    assert f"Times are of differing devices: {GPU}; {CPU}." in remarks_of(picture)


def test_a_run_that_moved_to_another_device_counts_as_of_both(tmp_path, monkeypatch):
    plan = figure_plan("accuracy-by-time", {**R18, "curves": LOSSES[:1]})
    (run,) = plan.runs().values()
    folder = finish(run, tmp_path, (10, 20, 30))
    (folder / "provenance.json").write_text(json.dumps(provenance(CPU, GPU)))
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert f"differing devices: {GPU}; {CPU}." in remarks_of(picture)


def test_a_cpu_is_known_by_the_name_that_runs_record():
    assert ON_CPU.search(devices.describe(torch.device("cpu")))
    assert not ON_CPU.search(GPU) and not ON_CPU.search("Tesla CPU emulator")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("{", "Invalid JSON"), ('{"attempts": []}', "'attempts'")]
)
def test_times_need_to_know_the_device_and_epochs_do_not(tmp_path, content, message):
    plan = figure_plan("accuracy-by-time", {**R18, "curves": LOSSES[:1]})
    (run,) = plan.runs().values()
    provenance = finish(run, tmp_path, (10, 20, 30)) / "provenance.json"
    provenance.unlink() if content is None else provenance.write_text(content)
    with pytest.raises(UserError, match=f"provenance.json: .*{message}"):
        draw(plan, tmp_path, tmp_path / "out")
    by_epoch = plan.figure.model_copy(update={"kind": "accuracy-by-epoch"})
    draw(dataclasses.replace(plan, figure=by_epoch), tmp_path, tmp_path / "out")


def test_a_missing_run_is_named_with_its_file_and_the_command(two_seeds, tmp_path, kind):
    plan = two_seeds(kind)
    run = plan.panels[0].curves[1].runs[1]
    (tmp_path / "runs" / run.name / "metrics.json").unlink()
    with pytest.raises(
        UserError, match=rf"fig9z shows run {run.name}: no .*{run.name}/metrics\.json; make it with"
    ) as told:
        draw(plan, tmp_path, tmp_path / "out")
    assert "`snakemake --cores all fig9z --config scale=smoke 'seeds=[0,1]'`" in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_run_without_epochs_never_appears(tmp_path, kind):
    panel = {**R18, "curves": [{"label": "ANN", "row": "ann"}]}
    plan = figure_plan(kind, panel, scale="paper")
    (run,) = plan.runs().values()
    finish(run, tmp_path, (), ())
    with pytest.raises(UserError, match=f"{run.name}, which was only evaluated and has no epochs"):
        draw(plan, tmp_path, tmp_path / "out")


def line(epoch, top1, **changes):
    return json.dumps({"epoch": epoch, "top1": top1, "seconds": 1.0, **changes}) + "\n"


GOOD = [line(1, 10.0), line(2, 20.0), line(3, 30.0)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"0 epochs that end in none, expected 1 to 3"),
        (GOOD[:2], r"2 epochs that end in 1, 2, expected 1 to 3"),
        ([*GOOD, line(4, 30.0)], r"4 epochs that end in 2, 3, 4, expected 1 to 3"),
        ([GOOD[0], GOOD[0], GOOD[2]], r"3 epochs that end in 1, 1, 3"),
        ([GOOD[0], '{"epoch": 2, "to', GOOD[2]], r"line 2: Invalid JSON"),
        ([GOOD[0], "\n", GOOD[2]], r"line 2: "),
        ([*GOOD[:2], line(3, 130.0)], r"line 3: 'top1'.*found 130"),
        ([*GOOD[:2], line(3, math.nan)], r"line 3: 'top1'"),
        ([*GOOD[:2], line(3, 30.0, seconds=-1)], r"line 3: 'seconds'"),
        ([*GOOD[:2], line(3, 30.0, seconds=math.inf)], r"line 3: 'seconds'"),
        ([*GOOD[:2], '{"epoch": 3, "seconds": 1.0}\n'], r"line 3: 'top1': .*required"),
        ([*GOOD[:2], line(3, 40.0)], r"ends at top-1 40\.0, but metrics\.json says 30\.0: this is another run"),
    ],
)
def test_a_history_that_is_not_the_runs_own_is_refused(tmp_path, kind, lines, message):
    plan = figure_plan(kind, {**R18, "curves": LOSSES[:1]})
    (run,) = plan.runs().values()
    folder = finish(run, tmp_path, (10, 20, 30))
    (folder / "history.jsonl").write_text("".join(lines))
    with pytest.raises(UserError, match=rf"history\.jsonl.*{message}") as told:
        draw(plan, tmp_path, tmp_path / "out")
    assert "remove that folder and make the run again" in str(told.value)


def test_a_history_that_cannot_be_read_is_refused(tmp_path, kind):
    plan = figure_plan(kind, {**R18, "curves": LOSSES[:1]})
    (run,) = plan.runs().values()
    history = finish(run, tmp_path, (10, 20, 30)) / "history.jsonl"
    history.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"history\.jsonl: cannot be read"):
        draw(plan, tmp_path, tmp_path / "out")
    history.unlink()
    with pytest.raises(UserError, match=r"history\.jsonl: cannot be read"):
        draw(plan, tmp_path, tmp_path / "out")


def test_metrics_of_another_run_are_refused_and_an_earlier_drawing_stays(two_seeds, tmp_path, kind):
    plan = two_seeds(kind)
    paths = draw(plan, tmp_path, tmp_path / "out")
    before = {suffix: path.read_bytes() for suffix, path in paths.items()}
    run = next(iter(plan.runs().values()))
    metrics = tmp_path / "runs" / run.name / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "spec": "0" * 64}))
    with pytest.raises(UserError, match="this is another run"):
        draw(plan, tmp_path, tmp_path / "out")
    assert {suffix: path.read_bytes() for suffix, path in paths.items()} == before


def test_epochs_alone_are_drawn_and_empty_places_stay_empty(tmp_path, monkeypatch):
    panels = [{**PANEL, "title": f"panel {i}"} for i in range(5)]
    plan = figure_plan("accuracy-by-epoch", *panels, epochs=1)
    for run in plan.runs().values():
        finish(run, tmp_path, (12,), (1.0,))
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    assert [axes.get_title() for axes in picture.axes] == [panel["title"] for panel in panels]
    assert [axes.get_xlabel() for axes in picture.axes] == ["", "", "epoch", "epoch", "epoch"]
    assert len(records(paths)) == 10


def test_figure_4_of_the_paper_has_two_rows_of_three(tmp_path, monkeypatch):
    plan = plan_figure(paper.Expansion("smoke"), load_figure("fig4"))
    for run in plan.runs().values():
        epochs = run.recipe.total_epochs
        finish(run, tmp_path, [40.0] * epochs, [1.0] * epochs)
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    places = [axes.get_subplotspec() for axes in picture.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (r, c) for r in (0, 1) for c in (0, 1, 2)
    ]
    assert [axes.get_title() for axes in picture.axes][3] == "Spikingformer-8-384"


def test_long_curves_keep_their_markers_few(tmp_path, monkeypatch):
    plan = figure_plan("accuracy-by-epoch", PANEL, epochs=300)
    accuracies = np.linspace(1, 70, 300).tolist()
    for run in plan.runs().values():
        finish(run, tmp_path, accuracies, [1.0] * 300)
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    marked = [line.get_markevery() for line in picture.axes[0].lines]
    assert marked == [(0, 50), (25, 50)]


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0.2, 0.5, 0.9], [0.2, 0.5, 0.9]),
        ([0.5, 0.5, 0.5], [0.5, 0.6, 0.7]),
        ([0.98, 0.98, 0.99], [0.8, 0.9, 1.0]),
        ([0.1, 0.15, 0.97, 0.98], [0.1, 0.2, 0.9, 1.0]),
        ([0.4], [0.4]),
    ],
)
def test_numbers_beside_a_panel_are_moved_apart(heights, expected):
    assert apart(heights, 0.1) == pytest.approx(expected)


def test_numbers_beside_a_panel_do_not_overlap(tmp_path, monkeypatch):
    plan = figure_plan("accuracy-by-epoch", {**R18, "curves": LOSSES}, seeds=(0, 1))
    for run in plan.runs().values():
        finish(run, tmp_path, (1, 50, 60))
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    picture.set_dpi(300)
    picture.draw_without_rendering()
    boxes = sorted((Text.get_window_extent(text) for text in picture.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
    assert max(box.x1 for box in boxes) <= picture.bbox.x1
