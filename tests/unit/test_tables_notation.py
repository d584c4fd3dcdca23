"""Table 1: the notation against a real batch of a real run, and every check that can fail."""

# ruff: noqa: RUF001 - shapes are printed with the multiplication sign
import csv
import dataclasses
import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from training_example import CPU, changed, run

from bkdsnn import cli, data
from bkdsnn.config import Mix, catalogue, paper
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import generator
from bkdsnn.distill.restoration import blur_mask, random_matrix
from bkdsnn.report.notation.check import check
from bkdsnn.report.notation.notation_plan import load_notation, plan_notation
from bkdsnn.report.notation.trace import Trace, returned, trace
from bkdsnn.report.tables import notation_table as tables

EXPANSION = paper.Expansion("smoke")
PLAN = plan_notation(EXPANSION, load_notation())
# The smoke scale by hand: T, batch, classes, widths of student and teacher, and the student's grid.
T, B, K, STUDENT, TEACHER, GRID = 4, 10, 100, 16, 24, 2


def edited(old, new, folder):
    """The notation of a user who put `new` in the place of `old`."""
    shutil.copytree(catalogue.CONFIG, folder / "config")
    path = folder / "config" / "notation.yaml"
    assert path.read_text().count(old) >= 1
    path.write_text(path.read_text().replace(old, new, 1))
    return load_notation(folder / "config")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results folder of the smoke scale with the data, the teacher and the run that table 1 looks into."""
    results = tmp_path_factory.mktemp("results")
    scale = results / "smoke"
    data.prepare(PLAN.spec.dataset, None, scale / "data" / f"{PLAN.spec.dataset.name}.json")
    for spec in PLAN.runs().values():
        run(spec, scale)
    return results


@pytest.fixture(scope="module")
def found(results):
    return trace(PLAN.spec, results / "smoke", CPU)


@pytest.fixture(scope="module")
def table(found):
    return check(PLAN, found)


# --- what it shows


def test_the_shapes_of_the_smoke_scale(table):
    maps = f"{GRID} × {GRID}"
    student, teacher = f"{B} × {STUDENT} × {maps}", f"{B} × {TEACHER} × {maps}"
    assert {line.entry.symbol: line.live for line in table.lines} == {
        "T": "4",
        "λ": "0.15",
        "R": f"{B} × {TEACHER} × 1 × 1",
        "B": f"{B} × {TEACHER} × 1 × 1",
        "ŷ": f"{B} × {K} (one-hot; kept as {B})",
        "y_stu, y_tea": f"{B} × {K}",
        "q_stu, q_tea": f"{B} × {K}",
        "F_tea": teacher,
        "F_stu": f"{T} × {student}",
        "F\N{COMBINING MACRON}_stu": student,
        "f_adp": f"{student} → {teacher}",
        "G": f"{teacher} → {teacher}",
        "F\N{COMBINING CIRCUMFLEX ACCENT}_stu": teacher,
    }
    assert table.lengths == {"T": T, "b": B, "n_cls": K, "c_stu": STUDENT, "c_tea": TEACHER, "h": GRID, "w": GRID}


def test_every_symbol_of_the_paper_is_there_with_its_shape(table):
    shapes = {line.entry.key: line.shape for line in table.lines}
    assert shapes["student_feature"] == "T × b × c_stu × h × w"
    assert shapes["teacher_feature"] == shapes["restored"] == "b × c_tea × h × w"
    assert shapes["mean_feature"] == "b × c_stu × h × w"
    assert shapes["labels"] == shapes["logits"] == shapes["softened"] == "b × n_cls"
    assert shapes["random_matrix"] == shapes["blur_mask"] == "b × c_tea × 1 × 1"
    assert len(shapes) == 13


def test_r_and_b_are_those_of_the_first_step(found):
    r = torch.rand(B, TEACHER, 1, 1, generator=generator(PLAN.spec.seed, "blur", 0, 0))
    assert torch.equal(found.quantities["random_matrix"].value, r)
    assert torch.equal(found.quantities["blur_mask"].value, r >= 0.15)


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
    tau = next(term.tau for term in PLAN.spec.distill if term.method == "ld")
    logits, softened = found.quantities["logits"], found.quantities["softened"]
    assert len(logits.values) == len(softened.values) == 2
    for y, q in zip(logits.values, softened.values):
        exponents = np.exp(y.double().numpy() / tau)
        np.testing.assert_allclose(q.numpy(), exponents / exponents.sum(1, keepdims=True), rtol=1e-5)
    assert not torch.allclose(*logits.values)


def test_student_and_teacher_are_the_trained_ones(results, found, tmp_path):
    again = shutil.copytree(results, tmp_path / "again")
    other = changed(PLAN.spec, lr=PLAN.spec.recipe.lr * 5)
    run(other, again / "smoke")
    theirs = trace(other, again / "smoke", CPU)
    student, teacher = zip(*(one.quantities["logits"].values for one in (found, theirs)))
    assert not torch.equal(*student) and torch.equal(*teacher)


def test_the_teachers_grid_is_told_where_it_is_another(table, found):
    assert found.teacher_grid == (3, 3)
    assert "The teacher's map is 3 × 3; F_tea is that map on the student's grid." in table.notes


def test_mixed_labels_are_probabilities(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    spec = changed(PLAN.spec, label_smoothing=0.1, mix=Mix(mixup=0.5))
    run(spec, tmp_path / "results" / "smoke")
    mixed = check(dataclasses.replace(PLAN, spec=spec), trace(spec, tmp_path / "results" / "smoke", CPU))
    assert {line.entry.key: line.live for line in mixed.lines}["labels"] == f"{B} × {K}"
    assert "ŷ holds probabilities: this run mixes images or smooths labels." in mixed.notes


def test_where_widths_agree_f_adp_is_nothing(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    notation = edited("sformer-8-384-imagenet", "sformer-8-768-imagenet", tmp_path)
    plan = plan_notation(EXPANSION, notation)
    run(plan.spec, tmp_path / "results" / "smoke")
    table = check(plan, trace(plan.spec, tmp_path / "results" / "smoke", CPU))
    assert table.lengths["c_stu"] == table.lengths["c_tea"] == 24
    assert any("f_adp is nothing" in note for note in table.notes)


# --- the command


def command(results, *options):
    return cli.main(["notation", "--scale", "smoke", "--results", str(results), "--device", "cpu", *options])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_calls_write_the_same_three_files_and_nothing_else(results, tmp_path):
    before = contents(results)
    torch.manual_seed(1)
    assert command(results, "--log", str(tmp_path / "log")) == 0
    first = contents(results)
    torch.manual_seed(2)
    assert command(results) == 0
    assert contents(results) == first
    folder = results / "smoke" / "tables"
    assert first.keys() - before.keys() == {folder / f"table1.{kind}" for kind in ("csv", "tex", "md")}
    assert before.items() <= first.items()
    assert (tmp_path / "log").read_text().endswith(f"every entry holds on the first batch of {PLAN.spec.name}\n")


def test_an_unfinished_run_is_named_and_nothing_is_written(results, tmp_path, capsys):
    shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("tables"))
    (tmp_path / "results" / "smoke" / "runs" / PLAN.spec.name / "metrics.json").unlink()
    assert command(tmp_path / "results") == 1
    assert f"run {PLAN.spec.name} is not finished" in capsys.readouterr().err
    assert not (tmp_path / "results" / "smoke" / "tables").exists()


@pytest.mark.parametrize("seeds", [[], ["--seeds", "3", "4"]])
def test_the_first_seed_is_looked_into(results, seeds):
    plan = plan_notation(EXPANSION, load_notation(), [3, 4] if seeds else None)
    assert plan.spec.seed == (3 if seeds else 0)
    assert plan.command.endswith("table1 --config scale=smoke" + (" 'seeds=[3,4]'" if seeds else ""))
    if seeds:
        assert command(results, *seeds) == 1  # that run was never made


SHAPE = "shape: [b, c_tea, 1, 1]"
FEATURE = "shape: [T, b, c_stu, h, w]"
MISTAKES = [
    (
        FEATURE,
        "shape: [T, b, c_tea, h, w]",
        r"'student_feature': .*'c_tea' is 16, expected 24 as in entry 'random_matrix'",
    ),
    (FEATURE, "shape: [b, T, c_stu, h, w]", r"'student_feature': .*'b' is 4, expected 10 as in entry 'random_matrix'"),
    (FEATURE, "shape: [T, c_stu, h, w]", r"shape is 4 × 10 × 16 × 2 × 2, expected T × c_stu × h × w: found 5 axes"),
    (SHAPE, "shape: [b, c_tea, 1, 2]", r"'random_matrix': .*'2' is 1, expected 2"),
    (SHAPE, "shape: [b, c_stu, 1, 1]", r"'c_stu' is 16, expected 24 as in entry 'random_matrix'"),
    (
        "    code: spec.network.timesteps",
        "    shape: [T]\n    code: spec.network.timesteps",
        "found 0 axes, expected 1",
    ),
    ("takes: [b, c_stu, h, w]", "takes: [b, c_tea, h, w]", r"'adapter': .*'c_tea' is 16, expected 24"),
    ("    takes: [b, c_stu, h, w]\n", "", "'adapter': 'takes' is none, expected what the module is fed with"),
    (f"    {SHAPE}\n", f"    {SHAPE}\n    takes: [b]\n", "'takes' is b, expected none, for it is no module"),
    (
        "restoration.random_matrix",
        "restoration.random_matrixx",
        r"no 'bkdsnn.*_matrixx' in the code \(.*, expected 'bkd",
    ),
    ("restoration.random_matrix", "restoration.blur_mask", r"'code' is '.*blur_mask', expected '.*random_matrix'"),
    ("bkdsnn.distill.ld.softened", "bkdsnn.distil.ld.softened", r"no 'bkdsnn\.distil\.ld\.softened' in the code"),
    ("spec.network.timesteps", "spec.network.time", r"no 'spec.network.time' in the code .* 'spec.network.timesteps'"),
    ("spec.distill.bkd.blur_ratio", "spec.distill.bdk.blur_ratio", r"'blur_ratio': no 'spec.distill.bdk.blur_ratio'"),
    ("key: blur_mask", "key: blur_maks", r"unknown key of an entry 'blur_maks' .*did you mean 'blur_mask'"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_an_entry_that_does_not_hold_is_named(found, tmp_path, old, new, message):
    plan = dataclasses.replace(PLAN, notation=edited(old, new, tmp_path))
    with pytest.raises(UserError, match=message):
        check(plan, found)


def tampered(found, key, **changes):
    quantities = {**found.quantities, key: dataclasses.replace(found.quantities[key], **changes)}
    return Trace(quantities, found.teacher_grid)


def one(quantity, change):
    return (change(quantity.value.clone()), *quantity.values[1:])


WRONG = {
    "random_matrix": (lambda r: r + 0.5, r"values lie in 0\.5\d* to 1\.\d+, expected in \[0, 1\)"),
    "blur_mask": (lambda b: b * 0.5, "values lie in 0 to 0.5, expected 0 and 1 alone"),
    "labels": (lambda y: y * 2, "their sums in 2 to 2, expected 1"),
    "softened": (lambda q: q - 0.5, r"values lie in -0\.\d+ to -0\.\d+, expected >= 0"),
    "mean_feature": (lambda f: f + 0.5, "is up to 0.5 away from the mean of F_stu over T, expected 0"),
    "restored": (lambda f: f + 1e-3, "is another map than G gives"),
}


@pytest.mark.parametrize("key", WRONG)
def test_values_that_are_wrong_are_named(found, key):
    change, message = WRONG[key]
    with pytest.raises(UserError, match=f"entry '{key}': .*{message}"):
        check(PLAN, tampered(found, key, values=one(found.quantities[key], change)))


def test_a_mask_that_is_not_that_of_r_is_named(found):
    flipped = tampered(found, "blur_mask", values=one(found.quantities["blur_mask"], torch.logical_not))
    with pytest.raises(UserError, match=r"entry 'blur_mask': 240 of 240 values are not 0 where R is below 0\.15"):
        check(PLAN, flipped)


def test_another_mask_than_the_one_in_use_is_named(found):
    """R and B agree with each other, but are not what the feature was multiplied with."""
    r = torch.rand(B, TEACHER, 1, 1, generator=torch.Generator().manual_seed(9))
    others = tampered(tampered(found, "random_matrix", values=(r,)), "blur_mask", values=(r >= 0.15,))
    with pytest.raises(UserError, match="entry 'restoration': is fed with another map than f_adp"):
        check(PLAN, others)


def test_another_lambda_than_the_runs_is_named(found):
    with pytest.raises(UserError, match=r"entry 'blur_ratio': the network has 0\.2, expected 0\.15"):
        check(PLAN, tampered(found, "blur_ratio", values=(0.2,)))


def test_a_function_that_the_step_never_calls_is_named(found):
    with pytest.raises(UserError, match=r"entry 'restored': the step never called '.*restore'"):
        check(PLAN, tampered(found, "restored", values=()))


def test_what_functions_return_is_collected_inside_the_block_alone():
    before = sys.getprofile()
    source = torch.Generator().manual_seed(0)
    random_matrix((1, 1, 1, 1), "channel", source)
    with returned(random_matrix) as found:
        drawn = random_matrix((1, 2, 1, 1), "channel", source)
        masked = blur_mask((1, 3, 1, 1), 0.5, "channel", source)
    blur_mask((1, 3, 1, 1), 0.5, "channel", source)
    (values,) = found.values()
    assert values[0] is drawn and [value.shape[1] for value in values] == [2, 3]
    assert torch.equal(values[1] >= 0.5, masked) and sys.getprofile() is before


# --- files


def test_csv_has_a_line_per_entry(table):
    records = list(csv.DictReader(io.StringIO(tables.render_csv(table))))
    assert len(records) == 13 and {record["run"] for record in records} == {PLAN.spec.name}
    assert records[3] == {
        "notation": "B",
        "latex": r"\mathbf{B}",
        "description": "0 where R is below λ, else 1",
        "shape": "b × c_tea × 1 × 1",
        "live_shape": "10 × 24 × 1 × 1",
        "code": "bkdsnn.distill.restoration.blur_mask",
        "run": PLAN.spec.name,
    }


def test_markdown_names_scale_data_run_and_command(table):
    text = tables.render_markdown(table)
    assert text.startswith("**Smoke scale: ") and " stands in for ImageNet.**" in text
    assert PLAN.spec.name in text and "Generated by `snakemake --cores all table1 --config scale=smoke`.\n" in text
    row = next(line for line in text.splitlines() if line.startswith("| f\\_adp"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        r"f\_adp",
        "1 × 1 convolution to the teacher's width",
        r"b × c\_stu × h × w → b × c\_tea × h × w",
        "10 × 16 × 2 × 2 → 10 × 24 × 2 × 2",
        "`bkdsnn.distill.features.adapter`",
    ]
    assert r"c\_stu = 16 (channels of the student)" in text
    for note in PLAN.notation.notes:
        assert tables.markdown.escape(note) in text


def test_latex_sets_symbols_and_dimensions_as_mathematics(table):
    text = tables.render_latex(table)
    assert (
        r"    $\mathbf{B}$ & 0 where $\mathbf{R}$ is below $\lambda$, else 1 & $b$~$\times$~$c^{\mathrm{tea}}$~" in text
    )
    assert r"from $f_{\mathrm{adp}}$($\bar{\mathbf{F}}^{\mathrm{stu}}$) * $\mathbf{B}$" in text
    assert r"$n^{\mathrm{cls}}$ = 100 (classes)" in text
    assert text.isascii()


@pytest.mark.parametrize("options", ["a4paper", "a4paper,twocolumn"])
def test_latex_compiles_with_the_packages_it_names(table, tmp_path, options):
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("pdflatex absent: apt-get install texlive-latex-recommended")
    text = tables.render_latex(table)
    needs = re.search("^% Needs: (.*)$", text, flags=re.MULTILINE).group(1)
    document = f"\\documentclass[{options}]{{article}}\n{needs}\n\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    arguments = ["-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run([pdflatex, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert "Overfull" not in log and "Missing character" not in log


def test_a_folder_that_cannot_be_written_is_named(table, tmp_path):
    (tmp_path / "tables").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*tables/table1\.csv"):
        tables.emit(table, tmp_path / "tables")
