"""`features` and `figure` as a user meets them, on real runs."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from figures_example import finish

from bkdsnn import cli
from bkdsnn.config import paper
from bkdsnn.config.figure_plans import load_figure, plan_figure
from bkdsnn.core import progress
from bkdsnn.data import prepare
from bkdsnn.training.execute import execute

CPU = torch.device("cpu")


@pytest.fixture
def command(tmp_path, monkeypatch, caplog):
    """Call a subcommand at scale smoke in an empty folder; returns exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress.log, "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.delenv("BKDSNN_DEVICE", raising=False)

    def call(*arguments):
        caplog.clear()
        with caplog.at_level("INFO", logger="bkdsnn"):
            code = cli.main([*arguments, "--scale", "smoke"])
        return code, caplog.text

    yield call
    for handler in progress.log.handlers:
        handler.close()


def plan_of(name, **options):
    return plan_figure(paper.Expansion("smoke"), load_figure(name), **options)


def test_features_and_figure_work_from_real_runs(command, tmp_path):
    results = tmp_path / "results" / "smoke"
    for run in plan_of("fig2b").panels[0].curves[0].runs[0].lineage():
        prepare(run.dataset, None, results / "data" / f"{run.dataset.name}.json")
        execute(run, results, results, CPU, None)
    code, said = command("figure", "fig2b")
    assert code == 1 and "no results/smoke/analyses/fig2b.json; make it with `snakemake --cores all fig2b" in said
    code, said = command("features", "fig2b", "--device", "cpu")
    assert code == 0 and said.count("% zeros") == 2
    code, said = command("figure", "fig2b", "--log", "logs/fig2b.log")
    assert code == 0 and "fig2b: figures/smoke/fig2b.png, figures/smoke/fig2b.pdf, figures/smoke/fig2b.csv" in said
    assert sorted(path.name for path in (tmp_path / "figures/smoke").iterdir()) == [
        "fig2b.csv",
        "fig2b.pdf",
        "fig2b.png",
    ]
    assert "fig2b.png" in (tmp_path / "logs/fig2b.log").read_text()


def test_seeds_neurons_and_folders_are_those_asked_for(command, tmp_path):
    plan = plan_figure(paper.Expansion("smoke", neurons="paper-text"), load_figure("figA1"), seeds=[3, 5])
    for run in plan.runs().values():
        epochs = run.recipe.total_epochs
        finish(run, tmp_path / "r" / "smoke", [20.0] * epochs, [1.0] * epochs, [(1e-3, 1e-4, 0.5)] * epochs)
    options = ("--seeds", "3", "5", "--neurons", "paper-text", "--results", "r", "--figures", "f")
    code, said = command("figure", "figA1", *options)
    assert code == 0, said
    assert (tmp_path / "f/smoke/figA1.csv").read_text().splitlines()[-1].endswith(",cosine,1,0.5,0.0,2")


def test_missing_runs_are_told_with_file_and_command(command):
    code, said = command("figure", "fig4")
    run = plan_of("fig4").panels[0].curves[0].runs[0].name
    assert code == 1
    assert f"no results/smoke/runs/{run}/metrics.json" in said
    assert "make it with `snakemake --cores all fig4 --config scale=smoke`" in said


def test_features_of_a_figure_without_histograms_are_refused(command):
    code, said = command("features", "fig4")
    assert code == 1 and "fig4 is of kind 'accuracy-by-epoch', expected 'histogram': fig2b" in said


def test_an_unknown_figure_is_refused(command):
    code, said = command("figure", "fig44")
    assert code == 1 and "unknown figure 'fig44' (did you mean 'fig4'?)" in said


def test_training_imports_neither_matplotlib_nor_figures():
    code = (
        "import sys, bkdsnn.cli, bkdsnn.training.execute, bkdsnn.training.train, bkdsnn.analysis.feature_histograms\n"
        "print({'matplotlib', 'pandas', 'pytorch_grad_cam', 'bkdsnn.report.figures.style'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"
