"""The three renderers: golden files, agreement on every number, escaping, and a real LaTeX run.

After an intended change of the output write the golden files anew, and read the diff:
`BKDSNN_REGENERATE=1 pytest tests/unit/test_tables_render.py`.
"""

import csv as reader
import dataclasses
import io
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tables_example import DEMO, PAPER, example_plan, example_results, without

from bkdsnn.tables import MeasuredCell, TableModel, csv, latex, markdown, measure, wording

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tables"
RENDERERS = {"csv": csv.render, "tex": latex.render, "md": markdown.render}
DASH = wording.NO_VALUE
NASTY = r"a_b & 50% #1 $x$ {y} ~z^2 \n <p> | `c` *d* [e] ± † " + DASH


@pytest.fixture(scope="module", params=[DEMO, PAPER], ids=lambda scale: scale.name)
def model(request, tmp_path_factory) -> TableModel:
    plan = example_plan(request.param)
    return measure(plan, example_results(plan, tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> TableModel:
    return measure(without(example_plan(), 1, 2), tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("suffix", RENDERERS)
def test_golden_file(model, suffix):
    # The digest in a run name changes with every change of the spec; what a table looks like does not.
    text = re.sub(r"(-s\d+-)[0-9a-f]{10}", r"\g<1>0123456789", RENDERERS[suffix](model))
    path = GOLDEN / f"{model.scale}.{suffix}"
    if os.environ.get("BKDSNN_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_bytes().decode()


# Each parser returns, per cell: mean or state, std, k/n, bold, delta, p, paper value, quoted, paper delta; as printed.


def parsed_csv(text: str) -> list[tuple]:
    return [_from_record(record) for record in reader.DictReader(io.StringIO(text))]


def _from_record(r: dict[str, str]) -> tuple:
    mean, std, paper = (r[key] and f"{float(r[key]):.2f}" for key in ("mean", "std", "paper"))
    delta, paper_delta = (
        r[key] and f"{float(r[key]):+.2f}".replace("-0.00", "+0.00") for key in ("delta", "paper_delta")
    )
    p = r["mcnemar_p"] and (f"= {float(r['mcnemar_p']):.3f}" if float(r["mcnemar_p"]) >= 0.001 else "< 0.001")
    progress = f"{r['n']}/{r['planned']}" if r["state"] == "partial" else ""
    quoted = "†" if paper and r["paper_quoted"] == "true" else ""
    return (mean or r["state"], std, progress, r["bold"] == "true", delta, p, paper or DASH, quoted, paper_delta)


def parsed_markdown(text: str) -> list[tuple]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    rows = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[3:-2]] for line in lines]
    return [_from_texts(*pair) for row in rows for pair in zip(row[::2], row[1::2])]


def parsed_latex(text: str) -> list[tuple]:
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows: list[list[str]] = []
    for line in body.splitlines():
        label, *cells = line[4:].removesuffix(r" \\").split(" & ")[1:-1] or [""]
        if cells and label.strip():
            rows.append([_plain(cell) for cell in cells])
        elif cells:
            rows[-1] = [f"{above} {_plain(below)}".strip() for above, below in zip(rows[-1], cells)]
    return [_from_texts(*pair) for row in rows for pair in zip(row[::2], row[1::2])]


def _plain(cell: str) -> str:
    """LaTeX of a cell as the Markdown of the same cell."""
    cell = re.sub(r"\{\\scriptsize ([^}]*)\}", r"\1", cell.strip())
    cell = re.sub(r"\\textbf\{([^}]*)\}", r"**\1**", re.sub(r"\\textit\{([^}]*)\}", r"\1", cell))
    for command, char in ((r"$\pm$", "±"), (r"$^{\dagger}$", "†"), ("$-$", "-"), ("$<$", "<"), ("--", DASH)):
        cell = cell.replace(command, char)
    return cell


def _from_texts(ours: str, paper: str) -> tuple:
    value = r"(\*\*)?([\d.]+|not run|failed)(?:\*\*)?(?: ± ([\d.]+))?(?: \[(\d+/\d+)\])?"
    difference = r"(?: \(([-+][\d.]+)(?:, p ([=<] [\d.]+))?\))?"
    bold, mean, std, progress, delta, p = re.fullmatch(value + difference, ours).groups(default="")
    value, quoted, paper_delta = re.fullmatch(rf"([\d.]+|{DASH})(†?)(?: \(([-+][\d.]+)\))?", paper).groups(default="")
    return (mean, std, progress, bool(bold), delta, p, value, quoted, paper_delta)


def _random_cell(draw: random.Random, cell: MeasuredCell) -> MeasuredCell:
    planned = draw.randint(1, 4)
    n = draw.randint(0, planned)
    state = ("measured" if n == planned else "partial") if n else draw.choice(["not run", "failed"])
    number = lambda low, high: round(draw.uniform(low, high), draw.randint(0, 6))  # noqa: E731
    delta = number(-3, 3) if n and draw.random() < 0.5 else None
    paper = number(0, 100) if draw.random() < 0.8 else None
    return dataclasses.replace(
        cell,
        state=state,
        seeds=tuple(range(n)),
        planned=planned,
        mean=number(0, 100) if n else None,
        std=number(0, 9) if n > 1 else None,
        bold=bool(n) and draw.random() < 0.3,
        delta=delta,
        mcnemar_p=None if delta is None or draw.random() < 0.2 else 10 ** draw.uniform(-5, 0),
        paper=paper,
        quoted=draw.random() < 0.3,
        paper_delta=None if paper is None or draw.random() < 0.5 else number(-3, 3),
        label=draw.choice(["+L_BKD", "a | b", "R & D", "BKDSNN (ours)"]),
    )


@pytest.mark.parametrize("seed", range(25))
def test_renderers_agree_on_every_number(model, seed):
    draw = random.Random(seed)
    model = dataclasses.replace(model, cells=tuple(_random_cell(draw, cell) for cell in model.cells))
    expected = parsed_csv(csv.render(model))
    assert len(expected) == len(model.cells)
    assert parsed_markdown(markdown.render(model)) == expected
    assert parsed_latex(latex.render(model)) == expected


def test_csv_keeps_full_precision(model):
    model = dataclasses.replace(model, cells=tuple(dataclasses.replace(c, mean=200 / 3) for c in model.cells))
    records = list(reader.DictReader(io.StringIO(csv.render(model))))
    for record, cell in zip(records, model.cells, strict=True):
        for key, value in (("mean", cell.mean), ("std", cell.std), ("mcnemar_p", cell.mcnemar_p)):
            assert (float(record[key]) if record[key] else None) == value
    assert records[-1]["runs"].split(";") == list(model.cells[-1].runs)
    assert records[-1]["seeds"] == "0;1;2"


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (wording.fixed, 94.6, "94.60"),
        (wording.fixed, 100.0, "100.00"),
        (wording.signed, 0.2, "+0.20"),
        (wording.signed, -0.001, "+0.00"),
        (wording.signed, -1.5, "-1.50"),
        (wording.count, 8_426, "8.4K"),
        (wording.count, 12_629_578, "12.63M"),
        (wording.count, 272_474, "0.27M"),
        (wording.probability, 0.0312, "p = 0.031"),
        (wording.probability, 2e-9, "p < 0.001"),
    ],
)
def test_numbers_as_printed(function, value, text):
    assert function(value) == text


def test_paper_size_is_printed_only_where_ours_prints_otherwise(model):
    first, _, last = model.columns
    assert (wording.our_size(first), wording.paper_size(first)) == ("P: 33.5K", "P: 12.63M")
    assert (wording.our_size(last), wording.paper_size(last)) == ("P: 0.27M", "")


def test_paper_columns_carry_a_mark_unless_comparable(model):
    comparable = model.scale == "paper"
    header = next(line for line in markdown.render(model).splitlines() if line.startswith("|"))
    assert header.count("(paper") == len(model.columns)
    assert header.count("not comparable)") == (0 if comparable else len(model.columns))
    assert latex.render(model).count("paper$^{*}$") == (0 if comparable else len(model.columns))
    assert ("Not comparable" in latex.render(model)) is not comparable


def test_captions_state_scale_data_seeds_and_baselines(model):
    expected = [
        "Table 9z of the paper",
        model.note,
        "mean ± sample standard deviation over 3 seeds (0, 1, 2)",
        "accuracy after the last epoch",
        "+L_BKD minus SEW-R; BKDSNN (ours) minus SEW-R (R-19 CIFAR10, R-20 CIFAR10), +L_BKD (R-19 CIFAR100)",
    ]
    stand_in = "Data: digits-8 (embedded) stands in for CIFAR-10; digit-pairs-8 (embedded) stands in for CIFAR-100."
    expected.append(stand_in if model.scale == "demo" else "Data: CIFAR10; CIFAR100.")
    caption = re.search(r"\\caption\{(.*)\}$", latex.render(model), flags=re.MULTILINE).group(1)
    for text in expected:
        assert latex.escape(text) in caption
        assert markdown.escape(text) in markdown.render(model)


def test_markdown_says_how_it_was_made(model):
    config = "" if model.scale == "demo" else " --config scale=paper"
    assert markdown.render(model).endswith(f"Generated by `snakemake --cores all table9z{config}`.\n")


def test_other_seeds_than_the_scale_s_own_are_part_of_the_command(tmp_path):
    commands = [measure(without(example_plan(scale), 1), tmp_path).command for scale in (DEMO, PAPER)]
    assert commands == [
        "snakemake --cores all table9z --config 'seeds=[0,2]'",
        "snakemake --cores all table9z --config scale=paper 'seeds=[0,2]'",
    ]


def test_notes_explain_only_marks_that_occur(empty):
    notes = " ".join(wording.notes(empty))
    assert "Not run" in notes
    assert not any(mark in notes for mark in ("Failed", "[k/n]", "One seed where"))
    assert "one seed (0)" in wording.statistics(empty)


def test_a_table_without_results_renders(empty):
    assert parsed_markdown(markdown.render(empty)) == parsed_csv(csv.render(empty)) == parsed_latex(latex.render(empty))
    assert {cell[0] for cell in parsed_csv(csv.render(empty))} == {"not run"}


def test_latex_uses_booktabs_rules_only(model):
    text = latex.render(model)
    assert r"\hline" not in text
    assert "|" not in re.search(r"\\begin\{tabular\}\{(.*)\}", text).group(1)
    assert r"\cmidrule(lr){3-6} \cmidrule(lr){7-8}" in text
    assert r"\cmidrule(lr){3-4} \cmidrule(lr){5-6} \cmidrule(lr){7-8}" in text
    assert text.count(r"\midrule") == len(model.groups)


def test_latex_spans_are_as_wide_as_the_table(model):
    text = latex.render(model)
    width = len(re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text).group(1))
    for line in text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines():
        if line.endswith(r"\\"):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == width


def test_latex_sets_a_minus_sign_in_negative_differences(model):
    cells = tuple(dataclasses.replace(cell, delta=-1.5, mcnemar_p=None) for cell in model.cells)
    text = latex.render(dataclasses.replace(model, cells=cells))
    assert text.count(r"{\scriptsize ($-$1.50)}") == len(cells)


def test_latex_escapes_every_special_character():
    escaped = latex.escape(NASTY)
    assert escaped == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}n $<$p$>$ $|$ "
        r"`c` *d* [e] $\pm$ $^{\dagger}$ --"
    )


def test_markdown_escapes_what_would_be_markup():
    assert markdown.escape("+L_BKD | *x* [y] `z` <b> #") == r"+L\_BKD \| \*x\* \[y] \`z\` \<b\> \#"


@pytest.fixture
def pdflatex() -> str:
    found = shutil.which("pdflatex")
    if not found:
        pytest.skip("pdflatex absent: apt-get install texlive-latex-recommended")
    return found


@pytest.mark.parametrize("options", ["a4paper", "a4paper,twocolumn"])
def test_latex_compiles_with_the_packages_it_names(model, pdflatex, tmp_path, options):
    nasty = dataclasses.replace(model, title=NASTY, footnotes=(NASTY,), columns=model.columns)
    text = latex.render(nasty)
    needs = re.search("^% Needs: (.*)$", text, flags=re.MULTILINE).group(1)
    narrow = dataclasses.replace(model, columns=model.columns[:1], cells=tuple(row[0] for row in model.rows()))
    document = rf"""\documentclass[{options}]{{article}}
{needs}
\begin{{document}}
{text}
{latex.render(narrow)}
\end{{document}}
"""
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    arguments = ["-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run([pdflatex, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "Missing character" not in log
