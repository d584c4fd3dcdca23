"""Figures as data: what the files may say, and what they expand to at each scale."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from figures_example import LOSSES, R18, figure_plan

from bkdsnn.config import catalogue, paper
from bkdsnn.config.figure_plans import Figure, figure_names, load_figure, plan_figure
from bkdsnn.core.errors import UserError

FIGURES = ["fig2a", "fig2b", "fig3a", "fig3b", "fig4", "figA1", "figA2", "figA3"]


@pytest.fixture(scope="module", params=catalogue.scale_names())
def expansion(request):
    return paper.Expansion(request.param)


def test_every_figure_of_the_paper_that_has_data_is_there():
    assert {*figure_names()} >= {*FIGURES}


@pytest.mark.parametrize("name", figure_names())
def test_a_figure_expands_at_every_scale_to_runs_of_its_tables(name, expansion):
    plan = plan_figure(expansion, load_figure(name))
    known = paper.all_runs(expansion.scale.name)
    assert plan.runs().keys() <= known.keys()
    assert all(plan.runs()[run].digest == known[run].digest for run in plan.runs())
    assert [panel.title for panel in plan.panels] == [panel.title for panel in plan.figure.panels]


def test_figure_4_has_the_six_networks_and_four_losses_of_table_4b():
    plan = plan_figure(paper.Expansion("paper"), load_figure("fig4"))
    networks = [{run.network.name for curve in panel.curves for run in curve.runs} for panel in plan.panels]
    assert networks == [{f"resnet{depth}"} for depth in (18, 34, 50)] + [
        {f"sformer-8-{width}"} for width in (384, 512, 768)
    ]
    for panel in plan.panels:
        methods = [[run.method for run in curve.runs] for curve in panel.curves]
        assert methods == [["ce"] * 3, ["ld"] * 3, ["bkd"] * 3, ["bkdsnn"] * 3]
        assert all([run.seed for run in curve.runs] == [0, 1, 2] for curve in panel.curves)


def test_the_blur_ratios_of_figure_a2_are_those_that_its_labels_say():
    plan = plan_figure(paper.Expansion("paper"), load_figure("figA2"))
    for panel in plan.panels[:2]:
        for curve in panel.curves:
            (term,) = curve.runs[0].distill
            assert term.blur_ratio == float(curve.label.removeprefix("λ = ")) and term.restoration
    widths = [curve.runs[0].network.dim for curve in plan.panels[2].curves]
    assert [f"D = {width}" for width in widths] == [curve.label for curve in plan.panels[2].curves]


def test_stand_ins_are_named_and_real_data_are_not():
    figure = load_figure("figA2")
    assert plan_figure(paper.Expansion("paper"), figure).data == {"CIFAR-10": None, "CIFAR-100": None, "ImageNet": None}
    assert plan_figure(paper.Expansion("lite"), figure).data == {
        "CIFAR-10": None,
        "CIFAR-100": None,
        "Imagenette (10 classes of ImageNet)": "ImageNet",
    }


def test_data_that_stands_in_for_two_sets_names_both():
    expansion = paper.Expansion("smoke")
    both = {"cifar10": "smoke-digits-12", "cifar100": "smoke-digits-12"}
    expansion.scale = expansion.scale.model_copy(update={"datasets": {**expansion.scale.datasets, **both}})
    data = plan_figure(expansion, load_figure("figA2")).data
    assert data[expansion.datasets["smoke-digits-12"].label] == "CIFAR-10 and CIFAR-100"


def test_seeds_replace_those_of_the_scale_and_are_in_the_command():
    plan = plan_figure(paper.Expansion("lite"), load_figure("fig4"), seeds=[4, 5])
    assert plan.seeds == (4, 5)
    assert {run.seed for run in plan.runs().values()} == {4, 5}
    assert plan.command == "snakemake --cores all fig4 --config scale=lite 'seeds=[4,5]'"


@pytest.mark.parametrize("name", ["fig2a", "fig2b", "fig3a"])
def test_figures_of_single_networks_show_the_first_seed(name):
    plan = plan_figure(paper.Expansion("lite"), load_figure(name), seeds=[7, 8])
    assert plan.seeds == (7,)
    assert all(len(curve.runs) == 1 for panel in plan.panels for curve in panel.curves)


def test_no_seeds_are_an_error():
    with pytest.raises(UserError, match="'seeds' is empty"):
        plan_figure(paper.Expansion("smoke"), load_figure("fig4"), seeds=[])


def test_another_preset_of_neurons_shows_other_runs_and_says_so():
    figure = load_figure("figA1")
    one, other = (
        plan_figure(paper.Expansion("smoke", neurons=preset), figure) for preset in ("reference", "paper-text")
    )
    assert not one.runs().keys() & other.runs().keys()
    assert "paper's text" in other.scale.note and "neurons=paper-text" in other.command


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "table4x"}, r"unknown table 'table4x' in config/figures/fig9z\.yaml, panel 'R-18', curve 'w/o KD'"),
        (
            {"column": "resnet81-imagenet"},
            r"unknown column of 'table4b' 'resnet81-imagenet'.*did you mean 'resnet18-im",
        ),
    ],
)
def test_a_panel_must_name_a_table_and_a_column(changes, message):
    with pytest.raises(UserError, match=message):
        figure_plan("accuracy-by-epoch", {**R18, "curves": LOSSES, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"row": "bkdd"},
            r"unknown row of 'table4b' 'bkdd' in .*curve '\+L_BKD' \(did you mean 'bkd'\?\); expected one of",
        ),
        ({"table": "table2c"}, r"unknown row of 'table2c' 'bkd'"),
        ({"column": "resnet19"}, r"unknown column of 'table4b' 'resnet19'"),
    ],
)
def test_a_curve_must_name_a_row_of_its_table(changes, message):
    curve = {"label": "+L_BKD", "row": "bkd", **changes}
    with pytest.raises(UserError, match=message):
        figure_plan("accuracy-by-epoch", {**R18, "curves": [curve]})


def test_an_unknown_figure_is_an_error_with_the_nearest_name():
    with pytest.raises(
        UserError, match=r"unknown figure 'figB1' \(did you mean 'fig[2A][b1]'\?\); expected one of: fig2a, fig2b"
    ):
        load_figure("figB1")


@pytest.fixture
def written(tmp_path):
    """Write a figure's file, changed, and return the folder of the configuration."""

    def write(change):
        (tmp_path / "figures").mkdir()
        shutil.copy(catalogue.CONFIG / "figures" / "fig4.yaml", tmp_path / "figures")
        path = tmp_path / "figures" / "fig4.yaml"
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda figure: figure.update(kind="curves"), r"fig4\.yaml: 'kind'.*found 'curves'"),
        (lambda figure: figure.update(panels=[]), r"fig4\.yaml: 'panels'"),
        (lambda figure: figure.update(pannels=[]), r"unknown key 'pannels' \(did you mean 'panels'\?\)"),
        (lambda figure: figure["panels"][0].update(curves=[]), r"'panels\.0\.curves'"),
        (
            lambda figure: figure["panels"][0]["curves"][0].update(rows="ld"),
            r"unknown key 'panels\.0\.curves\.0\.rows'",
        ),
        (lambda figure: figure["panels"][0]["curves"][0].update(label="+L_LD"), r"'R-18': two curves share a label"),
        (lambda figure: figure["panels"][0].update(title="R-34"), "two panels share a title"),
        (lambda figure: figure.update(images=[1]), "only kind 'gradcam' needs 'images'"),
        (lambda figure: figure.update(kind="gradcam"), "only kind 'gradcam' needs 'images'"),
        (lambda figure: figure.update(taps="all"), "'taps' is given with kind"),
    ],
)
def test_mistakes_in_a_file_are_told_with_file_and_key(written, change, message):
    config = written(change)
    with pytest.raises(UserError, match=message) as told:
        load_figure("fig4", config)
    assert str(told.value).startswith("config/figures/fig4.yaml: ")


def test_planning_imports_nothing_heavy():
    heavy = ("torch", "pandas", "matplotlib", "numpy", "scipy", "sklearn", "timm")
    code = f"import sys, bkdsnn.config.figure_plans; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_a_figure_is_immutable():
    figure = load_figure("fig4")
    assert isinstance(figure, Figure)
    with pytest.raises(ValueError, match="frozen"):
        figure.title = "another"
