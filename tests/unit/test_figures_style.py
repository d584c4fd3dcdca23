"""The common look: labels, colours, remarks, and files that are the same on every call."""

import colorsys
import csv
import os
import re
import struct
import subprocess
import sys

import matplotlib as mpl
import pytest
from figures_example import LOSSES, R18, figure_plan, pdf_text
from matplotlib.figure import Figure as Picture
from matplotlib.mathtext import MathTextParser

from bkdsnn.config import paper
from bkdsnn.config.figure_plans import figure_names, load_figure, plan_figure
from bkdsnn.core.errors import UserError
from bkdsnn.report.figures import style


@pytest.fixture
def plan():
    return figure_plan("accuracy-by-epoch", {**R18, "curves": LOSSES})


def drawn(plan, folder, notes=()):
    with style.applied():
        picture = style.sheet(plan, style.ONE_COLUMN, 2.0, notes)
        axes = picture.subplots()
        axes.plot([1, 2, 3], [1, 3, 2], label="a")
        return style.save(picture, plan, [{"x": 1, "y": 0.1 + 0.2}, {"x": 2, "y": None}], folder)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("+L_LD", r"+$\mathcal{L}_{\mathrm{LD}}$"),
        ("+L_BKD", r"+$\mathcal{L}_{\mathrm{BKD}}$"),
        ("λ = 0.15", r"$\lambda$ = 0.15"),
        ("D = 384", "$D$ = 384"),
        ("Spikingformer-8-D", "Spikingformer-8-$D$"),
        ("w/o KD", "w/o KD"),
        ("See D-148, D-160", "See D-148, D-160"),
        ("BKDSNN", "BKDSNN"),
        ("50 $ & 3 %", r"50 \$ & 3 %"),
    ],
)
def test_labels_are_set_as_formulas(label, expected):
    assert style.mathtext(label) == expected


def test_every_label_and_title_of_the_figures_is_understood_by_matplotlib():
    figures = [load_figure(name) for name in figure_names()]
    texts = [curve.label for figure in figures for panel in figure.panels for curve in panel.curves]
    texts += [panel.title for figure in figures for panel in figure.panels] + [figure.title for figure in figures]
    with style.applied():
        widths = [MathTextParser("path").parse(style.mathtext(text))[0] for text in texts]
    assert min(widths) > 0


def test_the_script_letter_of_the_losses_is_in_a_font_that_matplotlib_brings(caplog):
    with style.applied(), caplog.at_level("WARNING"):
        fonts = {glyph[0].family_name for glyph in MathTextParser("path").parse(style.mathtext("+L_LD"))[3]}
    assert not caplog.records
    assert any("STIX" in font for font in fonts)


def test_methods_look_alike_in_all_figures_and_like_no_other():
    found = {}
    for name in ("fig2b", "fig3b", "fig4", "figA3"):
        for panel in plan_figure(paper.Expansion("smoke"), load_figure(name)).panels:
            runs = [curve.runs[0] for curve in panel.curves]
            for run, look in zip(runs, style.looks(runs), strict=True):
                form = run.network.form if run.network.form == "ann" else "spiking"
                found.setdefault((form, run.method), set()).add(look)
    assert {method: len(looks) for method, looks in found.items()} == dict.fromkeys(found, 1)
    assert len(set.union(*found.values())) == len(found) == 7


def test_variants_of_one_method_get_looks_by_their_order():
    plan = plan_figure(paper.Expansion("smoke"), load_figure("figA2"))
    for panel in plan.panels:
        looks = style.looks([curve.runs[0] for curve in panel.curves])
        assert looks == list(style.VARIANTS[: len(looks)])


@pytest.mark.parametrize("looks", [tuple(style.METHODS.values()), style.VARIANTS])
def test_curves_are_told_apart_without_colour_too(looks):
    assert len({look.color for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    assert len({str(look.linestyle) for look in looks[-4:]}) == len(looks[-4:])


def test_ordered_variants_darken():
    rgb = [tuple(bytes.fromhex(look.color[1:])) for look in style.VARIANTS[:4]]
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in rgb]
    assert lightness == sorted(lightness, reverse=True)
    assert len({colorsys.rgb_to_hls(*color)[0] for color in rgb}) > 2


def test_the_picture_says_what_it_is_its_scale_its_data_and_its_seeds(plan, tmp_path):
    text = " ".join(pdf_text(drawn(plan, tmp_path, ["A last remark."])["pdf"]).split())
    assert "Figure 9z of the paper, reproduced: a small example." in text
    assert "Smoke scale: tens of images, one or two epochs. It only shows that everything runs." in text
    assert "Data: digit pairs, 32 px, smoke test (embedded) stands in for ImageNet. Seed: 0. A last remark." in text


def test_the_paper_scale_names_no_stand_in(tmp_path):
    plan = figure_plan("accuracy-by-epoch", {**R18, "curves": LOSSES}, scale="paper", seeds=(0, 1))
    text = " ".join(pdf_text(drawn(plan, tmp_path)["pdf"]).split())
    assert "Paper scale, with the published recipes. Data: ImageNet. Seeds: 0, 1." in text
    assert "stand" not in text


def test_the_remarks_stay_inside_the_picture(plan):
    with style.applied():
        picture = style.sheet(plan, style.ONE_COLUMN, 1.5, ["λ of L_BKD " * 30])
        picture.set_dpi(style.RC["savefig.dpi"])
        axes = picture.subplots()
        picture.draw_without_rendering()
        boxes = [text.get_window_extent() for text in picture.texts]
        lowest = axes.get_tightbbox().y0
    assert len(boxes) > 3
    assert min(box.x0 for box in boxes) >= 0 and min(box.y0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= picture.bbox.x1
    assert max(box.y1 for box in boxes) <= lowest
    tops, bottoms = [box.y0 for box in boxes[:-1]], [box.y1 for box in boxes[1:]]
    assert all(top >= bottom - 4 for top, bottom in zip(tops, bottoms))  # lines do not run into each other


def test_three_files_are_written_the_same_on_every_call(plan, tmp_path):
    first = {suffix: path.read_bytes() for suffix, path in drawn(plan, tmp_path / "one").items()}
    second = {suffix: path.read_bytes() for suffix, path in drawn(plan, tmp_path / "two").items()}
    assert first == second
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["fig9z.csv", "fig9z.pdf", "fig9z.png"]
    assert first["pdf"].startswith(b"%PDF-1.") and len(first["pdf"]) > 5000
    assert b"CreationDate" not in first["pdf"]


def test_the_png_has_the_resolution_and_the_width_of_a_column(plan, tmp_path):
    content = drawn(plan, tmp_path)["png"].read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    dpi = struct.unpack(">I", re.search(rb"pHYs(.{4})", content, re.DOTALL)[1])[0] * 0.0254
    assert dpi >= 199.9
    assert width == pytest.approx(dpi * style.ONE_COLUMN, abs=1) and height > 2.0 * dpi
    assert b"snakemake --cores all fig9z" in content
    assert len(content) > 10_000


def test_the_csv_has_full_precision_and_empty_fields(plan, tmp_path):
    with drawn(plan, tmp_path)["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"figure": "fig9z", "scale": "smoke", "x": "1", "y": "0.30000000000000004"},
        {"figure": "fig9z", "scale": "smoke", "x": "2", "y": ""},
    ]


def test_a_failed_drawing_leaves_the_old_files(plan, tmp_path):
    before = {suffix: path.read_bytes() for suffix, path in drawn(plan, tmp_path).items()}
    with style.applied(), pytest.raises(ValueError, match="fieldnames"):
        style.save(style.sheet(plan, 3, 1), plan, [{"x": 1}, {"z": 1}], tmp_path)
    assert {path.suffix[1:]: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_named(plan, tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*figures/fig9z\.png"):
        drawn(plan, tmp_path / "figures")


def test_titles_of_images_stay_inside_the_picture(plan, tmp_path):
    with style.applied():
        picture = style.sheet(plan, 6, 5.5)
        grid = picture.subplots(4, 4)
        for axes in grid.flat:
            axes.imshow([[0, 1], [1, 0]])
            axes.set(title="a title", xlabel="below\nit", xticks=[], yticks=[])
        picture.colorbar(grid[0, 0].images[0], ax=grid, shrink=0.5)
        style.save(picture, plan, [{"x": 1}], tmp_path)
        boxes = [axes.get_tightbbox() for axes in picture.axes]
    assert max(box.y1 for box in boxes) <= picture.bbox.y1 and max(box.x1 for box in boxes) <= picture.bbox.x1
    assert min(box.y0 for box in boxes) >= max(text.get_window_extent().y1 for text in picture.texts)


def test_settings_of_the_user_neither_show_nor_change(plan, tmp_path):
    expected = drawn(plan, tmp_path / "one")["png"].read_bytes()
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "red", "savefig.dpi": 10}):
        before = dict(mpl.rcParams)
        assert drawn(plan, tmp_path / "two")["png"].read_bytes() == expected
        assert dict(mpl.rcParams) == before


def test_the_legend_names_each_curve_once(plan):
    with style.applied():
        picture = style.sheet(plan, style.TWO_COLUMNS, 2)
        assert isinstance(picture, Picture)
        for axes in picture.subplots(1, 2):
            axes.plot([1], label="one")
            axes.plot([2], label="two")
        style.legend(picture)
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["one", "two"]


def test_style_chooses_no_backend_and_loads_no_pyplot():
    code = "import sys, bkdsnn.report.figures.style; print({'matplotlib.pyplot', 'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"
