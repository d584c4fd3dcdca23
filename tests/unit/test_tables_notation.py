"""Table 1: every entry computed on one real step of an untrained network, and the files that show it."""

# ruff: noqa: RUF001 - shapes are printed with the multiplication sign
import csv
import io
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bkdsnn import cli, models
from bkdsnn.config import LD, catalogue, paper
from bkdsnn.config.notation import load_notation
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import generator
from bkdsnn.data.loader import Batch
from bkdsnn.distill.bkd import BKDLoss
from bkdsnn.distill.features import adapter, time_mean
from bkdsnn.distill.ld import softened
from bkdsnn.distill.method import Method
from bkdsnn.distill.restoration import Restoration, blur_mask, random_matrix
from bkdsnn.models.outputs import Outputs
from bkdsnn.report.tables import notation_table as tables
from bkdsnn.training.train import build

NOTATION = load_notation()
MADE_BY = "snakemake --cores all table1"
# Widths and grids of student and teacher differ in this run. By hand at smoke scale: T, batch, classes, widths, grid.
SPEC = paper.plan("table2d", "smoke").cell("bkdsnn", "sformer-8-384-imagenet").runs[0]
T, B, K, STUDENT, TEACHER, GRID, RATIO = 4, 10, 100, 16, 24, 2, 0.15


class Found(NamedTuple):
    """What an entry stands for in the step: what has its name in the code, its values, and what a module took."""

    thing: object
    values: tuple[Tensor | float, ...]
    takes: Tensor | None = None


def attribute(code):
    """What a dotted name stands for: a place in the run's spec, a term by its method, or else what it imports."""
    if not code.startswith("spec."):
        return pkgutil.resolve_name(code)
    thing = SPEC
    for part in code.split(".")[1:]:
        thing = {term.method: term for term in thing}[part] if isinstance(thing, tuple) else getattr(thing, part)
    return thing


def first_step():
    """One step of student, teacher and L_BKD, written down as the paper does, by key of the entry."""
    teacher = models.build(SPEC.teacher.network, SPEC.dataset).eval()
    student, criterion = build(SPEC, teacher, torch.device("cpu"))
    bkd = criterion.methods["bkd"]
    source = torch.Generator().manual_seed(1)
    images = torch.randn(B, 3, SPEC.dataset.image_size, SPEC.dataset.image_size, generator=source)
    labels = torch.arange(B) % K
    with torch.no_grad():
        outputs, target = student(images, criterion.taps), teacher(images, criterion.teacher_taps)
        feature = outputs.features[student.taps[-1]]
        mean = time_mean(feature)
        adapted = bkd.adapters[0](mean)
        blur = [generator(SPEC.seed, "blur", 0, 0) for _ in range(4)]
        r = random_matrix(adapted.shape, "channel", blur[0])
        b = blur_mask(adapted.shape, SPEC.distill[0].blur_ratio, "channel", blur[1])
        restored = bkd.restoration.restore(adapted, blur[2])
        wanted = bkd.targets(target, [restored])[0]
        loss = criterion(outputs, target, labels, blur[3])["bkd"]
        logits = (time_mean(outputs.logits), time_mean(target.logits))
        tau = next(term.tau for term in SPEC.distill if isinstance(term, LD))
        q = tuple(softened(y, tau) for y in logits)
        gives = bkd.restoration(adapted * b)
    found = {
        "timesteps": Found(SPEC.network.timesteps, (float(len(feature)),)),
        "blur_ratio": Found(SPEC.distill[0].blur_ratio, (bkd.restoration.ratio,)),
        "random_matrix": Found(random_matrix, (r,)),
        "blur_mask": Found(blur_mask, (b,)),
        "labels": Found(Batch.labels, (F.one_hot(labels, K),)),
        "logits": Found(Outputs.logits, logits),
        "softened": Found(softened, q),
        "teacher_feature": Found(Method.targets, (wanted,)),
        "student_feature": Found(Outputs.features, (feature,)),
        "mean_feature": Found(time_mean, (mean,)),
        "adapter": Found(adapter, (adapted,), takes=mean),
        "restoration": Found(Restoration, (gives,), takes=adapted * b),
        "restored": Found(Restoration.restore, (restored,)),
    }
    return found, bkd, loss


@pytest.fixture(scope="module")
def step():
    return first_step()


@pytest.fixture(scope="module")
def found(step):
    return step[0]


# --- the entries hold


def lengths(axes, shape, known):
    """Bind the names of axes to lengths; the assertion fails where one name has two lengths."""
    assert len(axes) == len(shape)
    for axis, length in zip(axes, shape):
        assert length == (axis if isinstance(axis, int) else known.setdefault(axis, length)), (axis, axes, shape)


def test_every_entry_has_the_shape_that_it_states(found):
    assert found.keys() == {entry.key for entry in NOTATION.entries}
    known = {}
    for entry in NOTATION.entries:
        one = found[entry.key]
        assert bool(entry.takes) == (one.takes is not None)
        if entry.takes:
            lengths(entry.takes, tuple(one.takes.shape), known)
        for value in one.values:
            lengths(entry.shape, tuple(value.shape) if isinstance(value, Tensor) else (), known)
    assert known == {"T": T, "b": B, "n_cls": K, "c_stu": STUDENT, "c_tea": TEACHER, "h": GRID, "w": GRID}


def test_every_entry_is_found_by_its_name_in_the_code(found):
    for entry in NOTATION.entries:
        assert attribute(entry.code) == found[entry.key].thing, entry.code


def test_numbers_are_those_of_the_spec(found):
    assert found["timesteps"].values == (T,) and found["blur_ratio"].values == (RATIO,)


def test_every_symbol_of_the_paper_is_there_with_its_shape():
    shapes = {entry.key: entry.written_shape for entry in NOTATION.entries}
    assert shapes["student_feature"] == "T × b × c_stu × h × w"
    assert shapes["teacher_feature"] == shapes["restored"] == "b × c_tea × h × w"
    assert shapes["mean_feature"] == "b × c_stu × h × w"
    assert shapes["labels"] == shapes["logits"] == shapes["softened"] == "b × n_cls"
    assert shapes["random_matrix"] == shapes["blur_mask"] == "b × c_tea × 1 × 1"
    assert shapes["timesteps"] == "number" and len(shapes) == 13


def test_r_and_b_are_those_of_the_first_step(found):
    r = torch.rand(B, TEACHER, 1, 1, generator=generator(SPEC.seed, "blur", 0, 0))
    assert torch.equal(found["random_matrix"].values[0], r)
    assert torch.equal(found["blur_mask"].values[0], r >= RATIO)


@pytest.mark.parametrize(("kind", "size"), [("channel", (5, 7, 1, 1)), ("pixel", (5, 1, 2, 3))])
def test_r_is_drawn_once_and_b_is_its_threshold(kind, size):
    sources = [torch.Generator().manual_seed(3) for _ in range(3)]
    r, b = (
        random_matrix((5, 7, 2, 3), kind, sources[0]),
        blur_mask((5, 7, 2, 3), 0.3, kind, sources[1]),
    )
    drawn = torch.rand(size, generator=sources[2])
    assert torch.equal(r, drawn) and torch.equal(b, drawn >= 0.3)
    after = [torch.rand(1, generator=source) for source in sources]
    assert after[0] == after[1] == after[2]


def test_q_is_the_softmax_of_y_at_the_temperature(found):
    tau = next(term.tau for term in SPEC.distill if term.method == "ld")
    for y, q in zip(found["logits"].values, found["softened"].values, strict=True):
        exponents = np.exp(y.double().numpy() / tau)
        np.testing.assert_allclose(q.numpy(), exponents / exponents.sum(1, keepdims=True), rtol=1e-5)
    assert not torch.allclose(*found["logits"].values)


def test_the_mean_feature_is_eq_3(found):
    feature, mean = found["student_feature"].values[0], found["mean_feature"].values[0]
    assert torch.allclose(feature.double().mean(0), mean.double(), atol=1e-5)


def test_what_g_restores_is_what_the_loss_compares(step):
    found, bkd, loss = step
    assert isinstance(bkd, BKDLoss)
    restored, wanted = found["restored"].values[0], found["teacher_feature"].values[0]
    assert torch.equal(restored, found["restoration"].values[0])
    eq_5 = bkd.options.weight * (restored - wanted).square().sum() / B
    assert torch.allclose(loss, eq_5)


def test_where_widths_agree_f_adp_is_nothing():
    same = paper.plan("table2d", "smoke").cell("bkdsnn", "sformer-8-768-imagenet").runs[0]
    teacher = models.build(same.teacher.network, same.dataset)
    _, criterion = build(same, teacher, torch.device("cpu"))
    assert isinstance(criterion.methods["bkd"].adapters[0], torch.nn.Identity)


# --- what a user may get wrong in config/notation.yaml


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
    shutil.copytree(catalogue.CONFIG, tmp_path / "config")
    path = tmp_path / "config" / "notation.yaml"
    assert path.read_text().count(old) >= 1
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_notation(tmp_path / "config")


def test_reading_it_imports_nothing_heavy():
    heavy = ("torch", "numpy", "pandas", "tabulate")
    code = f"import sys, bkdsnn.config.notation; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


# --- files


def test_the_command_writes_three_files_and_needs_no_run(tmp_path):
    log = tmp_path / "log"
    assert cli.main(["notation", "--scale", "smoke", "--results", str(tmp_path), "--log", str(log)]) == 0
    folder = tmp_path / "smoke" / "tables"
    assert {path.name for path in folder.iterdir()} == {"table1.csv", "table1.tex", "table1.md"}
    assert "Generated by `snakemake --cores all table1 --config scale=smoke`.\n" in (folder / "table1.md").read_text()
    assert str(folder / "table1.tex") in log.read_text()


def test_csv_has_a_line_per_entry():
    records = list(csv.DictReader(io.StringIO(tables.render_csv(NOTATION))))
    assert len(records) == 13
    assert records[3] == {
        "notation": "B",
        "latex": r"\mathbf{B}",
        "description": "0 where R is below λ, else 1",
        "shape": "b × c_tea × 1 × 1",
        "code": "bkdsnn.distill.restoration.blur_mask",
    }


def test_markdown_has_entries_dimensions_notes_and_command():
    text = tables.render_markdown(NOTATION, MADE_BY)
    row = next(line for line in text.splitlines() if line.startswith("| f\\_adp"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        r"f\_adp",
        "1 × 1 convolution to the teacher's width",
        r"b × c\_stu × h × w → b × c\_tea × h × w",
        "`bkdsnn.distill.features.adapter`",
    ]
    assert r"c\_stu (channels of the student)" in text and f"Generated by `{MADE_BY}`.\n" in text
    for note in NOTATION.notes:
        assert tables.markdown.escape(note) in text


def test_latex_sets_symbols_and_dimensions_as_mathematics():
    text = tables.render_latex(NOTATION, MADE_BY)
    assert (
        r"    $\mathbf{B}$ & 0 where $\mathbf{R}$ is below $\lambda$, else 1 & $b$~$\times$~$c^{\mathrm{tea}}$~" in text
    )
    assert r"from $f_{\mathrm{adp}}$($\bar{\mathbf{F}}^{\mathrm{stu}}$) * $\mathbf{B}$" in text
    assert r"$n^{\mathrm{cls}}$ (classes)" in text
    assert text.isascii()


@pytest.mark.parametrize("options", ["a4paper", "a4paper,twocolumn"])
def test_latex_compiles_with_the_packages_it_names(tmp_path, options):
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("pdflatex absent: apt-get install texlive-latex-recommended")
    text = tables.render_latex(NOTATION, MADE_BY)
    needs = re.search("^% Needs: (.*)$", text, flags=re.MULTILINE).group(1)
    document = f"\\documentclass[{options}]{{article}}\n{needs}\n\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    arguments = ["-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run([pdflatex, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert "Overfull" not in log and "Missing character" not in log


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tables").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*tables/table1\.csv"):
        tables.emit(NOTATION, MADE_BY, tmp_path / "tables")
