"""Accuracy at every time-step: measured in the same pass, written with a run, checked, and shown in tables."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from figures_example import LOSSES, R18, drawn_picture, figure_plan, records, remarks_of
from figures_example import finish as finish_curve
from tables_example import example_plan, example_results, finish
from training_example import CPU, run

from bkdsnn.config import paper
from bkdsnn.config.figure_plans import OwnFigure, load_figure, plan_figure
from bkdsnn.core.errors import UserError
from bkdsnn.data import prepare
from bkdsnn.models.finished import finished_network
from bkdsnn.report.figures.draw import draw
from bkdsnn.report.tables import csv as csv_table
from bkdsnn.report.tables.measurement import measure
from bkdsnn.runs.records import finished
from bkdsnn.training.evaluate import evaluate
from bkdsnn.training.execute import open_loader


@pytest.mark.parametrize(("row", "timesteps"), [("ann", 1), ("tet", 4), ("qcfs", 4)])
def test_a_run_records_the_accuracy_of_the_mean_logits_of_its_first_time_steps(row, timesteps, tmp_path):
    (spec,) = paper.plan("table2a", "smoke").cell(row, "resnet20-cifar10").runs
    prepare(spec.dataset, None, tmp_path / "data" / f"{spec.dataset.name}.json")
    for one in spec.lineage():
        folder = run(one, tmp_path)
    network, loader = finished_network(spec, folder), open_loader(spec, tmp_path, CPU)
    with torch.inference_mode():
        batches = [(network(images).logits, labels) for images, labels in loader.test()]
    labels = torch.cat([labels for _, labels in batches])
    found = evaluate(network, loader)
    means = [torch.cat([logits[:t].sum(0) / t for logits, _ in batches]) for t in range(1, timesteps + 1)]
    assert np.array_equal(found.by_timestep, torch.stack(means).argmax(2).numpy())
    assert np.array_equal(found.predicted, torch.cat([logits.mean(0).argmax(1) for logits, _ in batches]).numpy())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["top1_by_timestep"] == [100 * float((one.argmax(1) == labels).double().mean()) for one in means]
    assert metrics["top1_by_timestep"][-1] == metrics["top1"]["last"]
    assert finished(spec, tmp_path).by_timestep() == tuple(metrics["top1_by_timestep"])


@pytest.mark.parametrize("values", [[50.0], [50.0, 60.0, 70.0, 79.0], [50.0, 60.0, 70.0, 75.0, 80.0]])
def test_accuracies_that_contradict_the_run_are_refused(values, tmp_path):
    (one, *_) = example_plan().cell("sew-resnet", "resnet19-cifar10").runs
    finish(one, tmp_path, range(80), top1_by_timestep=values)
    message = (
        rf"metrics\.json: 'top1_by_timestep' has {len(values)} values that end in .*, expected 4 that end in 80\.0"
    )
    with pytest.raises(UserError, match=message):
        finished(one, tmp_path)


def test_the_csv_has_the_mean_over_seeds_after_each_time_step(tmp_path):
    plan = example_plan()
    example_results(plan, tmp_path)
    lines = csv.DictReader(io.StringIO(csv_table.render(measure(plan, tmp_path))))
    found = {(line["row"], line["column"]): line["top1_by_timestep"] for line in lines}
    assert found["sew-resnet", "resnet19-cifar10"] == "67.0;72.0;77.0;82.0"  # last of the seeds: 80, 82 and 84
    assert found["ann", "resnet19-cifar10"] == "96.0"
    assert found["qcfs", "resnet19-cifar10"] == ""  # failed


def test_runs_of_an_older_version_have_none_in_the_csv(tmp_path):
    plan = example_plan()
    for one in plan.cell("sew-resnet", "resnet19-cifar10").runs:
        finish(one, tmp_path, range(80), top1_by_timestep=[])
    cell = measure(plan, tmp_path).cells[3]
    assert (cell.row, cell.mean, cell.top1_by_timestep) == ("sew-resnet", 80.0, ())


def test_the_figure_shows_every_time_step_of_every_curve(tmp_path, monkeypatch):
    curves = [LOSSES[0], {"label": "ANN", "table": "table2c", "row": "ann"}]
    plan = figure_plan("accuracy-by-timestep", {**R18, "curves": curves}, seeds=(0, 1))
    for one, last in zip(plan.runs().values(), (30.0, 34.0, 60.0, 60.0), strict=True):
        finish_curve(one, tmp_path, (10, 20, last))
    paths, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    rows = records(paths)
    found = [(row["curve"], row["timestep"], float(row["top1_mean"])) for row in rows]
    assert found == [("w/o KD", str(t), 24.0 + 2 * t) for t in (1, 2, 3, 4)] + [("ANN", "1", 60.0)]
    assert float(rows[0]["top1_std"]) == pytest.approx(4 / 2**0.5)
    (axes,) = picture.axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3, 4], [1]]
    assert axes.get_xlabel() == "time-steps"
    assert "Numbers beside a panel: after all time-steps." in remarks_of(picture)


def test_a_single_time_step_beside_many_still_has_its_marker(tmp_path, monkeypatch):
    ann = {"label": "ANN", "table": "table2c", "row": "ann"}
    converted = [{"label": f"QCFS{i}", "table": "table2c", "row": "qcfs"} for i in (1, 2)]
    plan = figure_plan("accuracy-by-timestep", {**R18, "curves": [*converted, ann]})
    for one in plan.runs().values():
        finish_curve(one, tmp_path, (10, 20, 90) if one.recipe else (), (1.0,) * 3 if one.recipe else ())
    _, picture = drawn_picture(monkeypatch, plan, tmp_path, tmp_path / "out")
    steps = [len(line.get_xdata()) for line in picture.axes[0].lines]
    assert steps[0] > 6 and steps[-1] == 1
    assert picture.axes[0].lines[-1].get_markevery()[0] == 0


def test_a_run_of_an_older_version_is_not_drawn_by_time_step(tmp_path):
    plan = figure_plan("accuracy-by-timestep", {**R18, "curves": LOSSES[:1]})
    (one,) = plan.runs().values()
    path = finish_curve(one, tmp_path, (10, 20, 30)) / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "top1_by_timestep": []}))
    with pytest.raises(UserError, match=r"metrics\.json: has no 'top1_by_timestep', because the run was made by"):
        draw(plan, tmp_path, tmp_path / "out")


def test_the_projects_own_figure_says_that_the_paper_has_none_and_needs_no_run_of_its_own():
    figure = load_figure("fig_timesteps")
    assert isinstance(figure, OwnFigure) and "the paper has no such figure" in " ".join(figure.notes)
    plan = plan_figure(paper.Expansion("smoke"), figure)
    assert {run.method for run in plan.runs().values()} >= {"convert", "tet", "ce", "kdsnn", "lasnn", "bkdsnn"}
    assert plan.runs().keys() <= paper.all_runs("smoke").keys()
