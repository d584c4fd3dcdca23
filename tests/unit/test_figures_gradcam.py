"""The picture of Grad-CAM: a row per image, a column per network, and words in place of an empty map."""

import csv

import numpy as np
import pytest
from figures_example import drawn_picture
from gradcam_example import CNN, CPU, TRANSFORMER, finish, gradcam_plan
from torch import nn

from bkdsnn.analysis.gradcam import analyse
from bkdsnn.analysis.maps import read_maps
from bkdsnn.core.errors import UserError
from bkdsnn.report.figures.draw import draw

IMAGES = (2, 99)


def silence(name, network):
    """Let the last stage of BKDSNN never fire."""
    if "bkdsnn" in name:
        for module in network.layer("stage4").modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, -100.0)
                nn.init.zeros_(module.weight)


@pytest.fixture(scope="module")
def plan():
    return gradcam_plan(CNN, TRANSFORMER, images=IMAGES)


@pytest.fixture(scope="module")
def results(plan, tmp_path_factory):
    results = finish(plan, tmp_path_factory.mktemp("results") / "smoke", silence)
    analyse(plan, results, CPU)
    return results


@pytest.fixture
def drawn(plan, results, tmp_path, monkeypatch):
    return drawn_picture(monkeypatch, plan, results, tmp_path)


def rows_of(picture, part):
    """Axes of the maps of a panel, in rows; those of its image first."""
    axes = picture.subfigs[part].axes
    rows = len(IMAGES)
    return [axes[start : start + len(axes) // rows] for start in range(0, len(axes), len(axes) // rows)]


def test_a_row_is_an_image_and_a_column_a_network(plan, results, drawn):
    _, picture = drawn
    shown, _ = read_maps(plan, results)
    for part, (panel, one) in enumerate(zip(plan.panels, shown)):
        rows = rows_of(picture, part)
        heads = [axes.get_title() for axes in rows[0]]
        assert heads == ["image", *(curve.label for curve in panel.curves)]
        for image, line in enumerate(rows):
            np.testing.assert_array_equal(line[0].images[0].get_array(), one.images[image])
            assert line[0].get_xlabel() == f"class {one.labels[image]}"
            found = [axes.get_xlabel().splitlines()[0] for axes in line[1:]]
            assert found == [f"predicted {label}" for label in one.predicted[image]]


def test_similarity_over_the_test_set_stands_once_below_each_student(plan, results, drawn):
    _, picture = drawn
    _, summary = read_maps(plan, results)
    first, last = rows_of(picture, 0)
    (student,) = summary.of("CNN", "w/o KD")
    said = f"test set: {student.cosine:.2f}, {100 * student.overlap:.0f} %"
    assert said in last[2].get_xlabel()
    assert not any("test set" in axes.get_xlabel() for axes in (*first, *last[:2]))


def test_a_layer_that_never_fires_says_so(drawn):
    _, picture = drawn
    for line in rows_of(picture, 0):
        assert [text.get_text() for text in line[3].texts] == ["never fires"]
        assert not any(text.get_text() == "never fires" for text in line[1].texts)
        grey = np.asarray(line[3].images[0].get_array())
        assert (grey == grey[..., :1]).all()  # the image alone, with no map over it


def test_the_csv_is_the_summary(plan, results, drawn):
    paths, _ = drawn
    _, summary = read_maps(plan, results)
    with paths["csv"].open() as stream:
        records = list(csv.DictReader(stream))
    assert [(row["panel"], row["label"], row["run"]) for row in records] == [
        (one.panel, one.label, one.run) for one in summary.methods
    ]
    assert [row["cosine"] for row in records] == [
        "" if one.cosine is None else str(one.cosine) for one in summary.methods
    ]
    assert {row["scale"] for row in records} == {"smoke"}


def test_without_its_analysis_nothing_is_drawn(plan, tmp_path):
    with pytest.raises(UserError, match=r"no .*fig9y\.npz; make it with `snakemake --cores all fig9y"):
        draw(plan, tmp_path / "smoke", tmp_path / "out")
    assert not (tmp_path / "out").exists()
