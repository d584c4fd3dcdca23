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
from collections.abc import Iterable
from pathlib import Path

import pytest
from tables_example import DEMO, PAPER, example_plan, example_results, without

from bkdsnn.core.paired import Interval, Spread
from bkdsnn.report.tables import MeasuredCell, TableModel, csv, latex, markdown, measure, wording
from bkdsnn.report.tables.cells import PairedDifference

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
    # Another SciPy may round the last digits otherwise.
    text = re.sub(r"-?\d+\.\d{9,}(e-\d+)?", lambda number: f"{float(number[0]):.9g}", text)
    path = GOLDEN / f"{model.scale}.{suffix}"
    if os.environ.get("BKDSNN_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_bytes().decode()


# Each parser returns, per cell: the settings of its row as numbers, then mean or state, std, k/n, bold or underlined,
# difference, both ends of its interval, whether it has a mark, paper value, mark of its origin, paper difference; as
# printed.


def parsed_csv(text: str) -> list[tuple]:
    return [_from_record(record) for record in reader.DictReader(io.StringIO(text))]


def _from_record(r: dict[str, str]) -> tuple:
    mean, std, paper = (r[key] and f"{float(r[key]):.2f}" for key in ("mean", "std", "paper"))
    difference, *ends, paper_difference = (
        r[key] and f"{float(r[key]):+.2f}".replace("-0.00", "+0.00")
        for key in ("difference", "interval_low", "interval_high", "paper_difference")
    )
    differs = bool(r["p_holm"]) and float(r["p_holm"]) < 0.05
    progress = f"{r['n']}/{r['planned']}" if r["state"] == "partial" else ""
    mark = {"quoted": "†", "inferred": "‡"}.get(r["paper_origin"], "")
    settings = _numbers(r[key] or DASH for key in ("setting_ld_tau", "setting_bkd_blur_ratio"))
    marks = "**" if r["bold"] == "true" else "<ins>" if r["underlined"] == "true" else ""
    own = (mean or r["state"], std, progress, marks, difference, *ends, differs)
    return (settings, *own, paper or DASH, mark, paper_difference)


def parsed_markdown(text: str) -> list[tuple]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    rows = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[3:-2]] for line in lines]
    return [cell for row in rows for cell in _cells(row)]


def parsed_latex(text: str) -> list[tuple]:
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows: list[list[str]] = []
    for line in body.splitlines():
        label, *cells = line[4:].removesuffix(r" \\").split(" & ")[1:-1] or [""]
        if cells and label.strip():
            rows.append([_plain(cell) for cell in cells])
        elif cells:
            rows[-1] = [f"{above} {_plain(below)}".strip() for above, below in zip(rows[-1], cells)]
    return [cell for row in rows for cell in _cells(row)]


def _cells(row: list[str]) -> list[tuple]:
    """The cells of a row that begins with two settings."""
    tau, blur_ratio, *texts = row
    return [(_numbers((tau, blur_ratio)), *_from_texts(*pair)) for pair in zip(texts[::2], texts[1::2])]


def _numbers(texts: Iterable[str]) -> tuple[float | None, ...]:
    return tuple(None if text == DASH else float(text) for text in texts)


def _plain(cell: str) -> str:
    """LaTeX of a cell as the Markdown of the same cell."""
    marks = {r"$^{\dagger}$": "†", r"$^{\ddagger}$": "‡", r"$^{\S}$": "§"}
    for command, char in {r"$\pm$": "±", **marks, "$-$": "-", "--": DASH}.items():
        cell = cell.replace(command, char)
    cell = re.sub(r"\{\\scriptsize ([^}]*)\}", r"\1", cell.strip())
    cell = re.sub(r"\\textbf\{([^}]*)\}", r"**\1**", re.sub(r"\\textit\{([^}]*)\}", r"\1", cell))
    return re.sub(r"\\underline\{([^}]*)\}", r"<ins>\1</ins>", cell)


def _from_texts(ours: str, paper: str) -> tuple:
    value = r"(\*\*|<ins>)?([\d.]+|not run|failed)(?:\*\*|</ins>)?(?: ± ([\d.]+))?(?: \[(\d+/\d+)\])?"
    difference = r"(?: \(([-+][\d.]+)(?: \[([-+][\d.]+), ([-+][\d.]+)\](§?))?\))?"
    marks, mean, std, progress, *compared, differs = re.fullmatch(value + difference, ours).groups(default="")
    paper_value = rf"([\d.]+|{DASH})([†‡]?)(?: \(([-+][\d.]+)\))?"
    return (mean, std, progress, marks, *compared, bool(differs), *re.fullmatch(paper_value, paper).groups(default=""))


def _random_comparison(draw: random.Random) -> PairedDifference:
    difference, half = draw.uniform(-3, 3), draw.uniform(0, 4)
    interval = Interval(difference - half, difference + half, p=0.02, df=3.1, spread=Spread(3, 100, 1.0, 2.0, 3.0))
    if draw.random() < 0.2:
        return PairedDifference("bkd", difference, (0,), None, ())
    return PairedDifference("bkd", difference, (0, 2), interval, (0.5, 1.0), p_holm=10 ** draw.uniform(-3, 0))


def _random_cell(draw: random.Random, cell: MeasuredCell) -> MeasuredCell:
    planned = draw.randint(1, 4)
    n = draw.randint(0, planned)
    state = ("measured" if n == planned else "partial") if n else draw.choice(["not run", "failed"])
    number = lambda low, high: round(draw.uniform(low, high), draw.randint(0, 6))  # noqa: E731
    paper, marked = number(0, 100) if draw.random() < 0.8 else None, draw.random()
    return dataclasses.replace(
        cell,
        state=state,
        seeds=tuple(range(n)),
        planned=planned,
        mean=number(0, 100) if n else None,
        std=number(0, 9) if n > 1 else None,
        bold=bool(n) and marked < 0.3,
        underlined=bool(n) and marked > 0.7,
        to_baseline=_random_comparison(draw) if n and draw.random() < 0.5 else None,
        paper=paper,
        origin=None if paper is None else draw.choice(["printed", "quoted", "inferred"]),
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
        interval = cell.to_baseline.interval if cell.to_baseline else None
        for key, value in (("mean", cell.mean), ("std", cell.std), ("p", interval and interval.p)):
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
    ],
)
def test_numbers_as_printed(function, value, text):
    assert function(value) == text


def test_paper_size_is_printed_only_where_ours_prints_otherwise(model):
    first, _, last = model.columns
    assert (wording.our_size(first), wording.paper_size(first)) == ("P: 33.5K", "P: 12.63M")
    assert (wording.our_size(last), wording.paper_size(last)) == ("P: 0.27M", "")


def test_a_size_that_the_paper_does_not_print_is_left_out(model):
    column = dataclasses.replace(model.columns[0], paper_parameters_m=None)
    assert (wording.our_size(column), wording.paper_size(column)) == ("P: 33.5K", "")


def test_latex_has_no_line_of_sizes_where_there_are_none(empty):
    bare = dataclasses.replace(
        empty, columns=tuple(dataclasses.replace(c, paper_parameters_m=None) for c in empty.columns)
    )
    assert latex.render(empty).count("P: ") == len(empty.columns) + 1  # and the note that explains it
    assert latex.render(bare).count(r"\\") == latex.render(empty).count(r"\\") - 1


def test_rows_of_one_label_are_named_by_what_tells_them_apart(model):
    rows = (
        ("bkd", "+L_BKD [λ = 0.15]"),
        ("bkd-0.40", "+L_BKD [λ = 0.40]"),
        ("bkdsnn", "BKDSNN (ours)"),
    )
    assert wording.labels(model).items() >= dict(rows).items()
    meta = tuple(dataclasses.replace(cell, label="Meta") for cell in model.cells)
    names = wording.labels(dataclasses.replace(model, settings={}, cells=meta))
    assert names["ann"] == "Meta [Teacher, T = 1]"
    assert names["bkd"] == "Meta [with KD, T = 4]"


def test_rows_with_the_same_baselines_share_them(model):
    same = [dataclasses.replace(c, baseline="bkd" if c.row in ("ann", "bkdsnn") else None) for c in model.cells]
    text = wording.differences(dataclasses.replace(model, cells=tuple(same)))
    assert text.startswith("In parentheses: Teacher ANN, BKDSNN (ours) minus +L_BKD [λ = 0.15]. Mean")


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ((1.5, 2.0, 4.0), ["1.5", "2.0", "4.0"]),
        ((0.0, 0.15, 0.4, None), ["0.00", "0.15", "0.40", DASH]),
        ((7e-5, 0.002), ["0.00007", "0.00200"]),
        (("channel", "pixel"), ["channel", "pixel"]),
        ((3, True), ["3", "True"]),
    ],
)
def test_settings_of_a_column_share_their_decimals(model, values, printed):
    cells = tuple(dataclasses.replace(cell, settings=(value,)) for cell, value in zip(model.cells, values))
    model = dataclasses.replace(model, cells=cells)
    assert [wording.settings(model, cell) for cell in cells] == [[text] for text in printed]


def test_teachers_are_named_where_their_network_is_another(model):
    teaching = "Teacher (R-19): resnet34 (P: 21.80M)."
    assert teaching in wording.notes(model)
    sizes = (21_670_000, 21_710_000, 21_670_000)
    columns = [dataclasses.replace(c, teacher="vit", teacher_parameters=n) for c, n in zip(model.columns, sizes)]
    everywhere = dataclasses.replace(model, columns=tuple(columns))
    assert wording.teachers(everywhere) == ["Teacher: vit (P: 21.67M, 21.71M)."]
    assert wording.teachers(dataclasses.replace(model, columns=model.columns[2:])) == []


def test_paper_columns_carry_a_mark_unless_comparable(model):
    comparable = model.scale == "paper"
    header = next(line for line in markdown.render(model).splitlines() if line.startswith("|"))
    assert header.count("(paper") == len(model.columns)
    assert header.count(r"(paper\*") == (0 if comparable else len(model.columns))
    assert (r"\*Not comparable" in markdown.render(model)) is not comparable
    assert latex.render(model).count("paper$^{*}$") == (0 if comparable else len(model.columns))
    assert ("Not comparable" in latex.render(model)) is not comparable


def test_captions_state_scale_data_seeds_and_baselines(model):
    expected = [
        "Table 9z of the paper",
        model.note,
        "mean ± sample standard deviation over 3 seeds (0, 1, 2)",
        "accuracy after the last epoch",
        "In parentheses: +L_BKD [λ = 0.15] minus SEW-R; +L_BKD [λ = 0.40] minus +L_BKD [λ = 0.15]; BKDSNN (ours) minus "
        "SEW-R (R-19 CIFAR10 w/ G, R-20 CIFAR10 w/o G), +L_BKD [λ = 0.15] (R-19 CIFAR100 w/ G). Mean over",
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


def test_the_scale_s_own_seeds_are_not_part_of_the_command(tmp_path):
    plan = without(example_plan(DEMO.model_copy(update={"seeds": (0, 2)})), 1)
    assert measure(plan, tmp_path).command == "snakemake --cores all table9z"


def test_notes_explain_only_marks_that_occur(empty):
    notes = " ".join(wording.notes(empty))
    assert "Not run" in notes
    assert not any(mark in notes for mark in ("Failed", "[k/n]", "One seed where"))
    assert "†The paper quotes" in notes and "‡The paper does not print" in notes
    printed = tuple(dataclasses.replace(cell, origin="printed") for cell in empty.cells)
    assert not set("†‡") & set(" ".join(wording.notes(dataclasses.replace(empty, cells=printed))))
    assert "One seed (0): no statement about the methods." in wording.statistics(empty)
    assert "Nothing is underlined, because one seed cannot tell" in notes and "Underlined:" not in notes
    assert "interval" not in wording.differences(empty) + notes and "Mean over" not in wording.differences(empty)


def test_a_table_without_results_renders(empty):
    assert parsed_markdown(markdown.render(empty)) == parsed_csv(csv.render(empty)) == parsed_latex(latex.render(empty))
    assert {state for _, state, *_ in parsed_csv(csv.render(empty))} == {"not run"}


def test_latex_uses_booktabs_rules_only(model):
    text = latex.render(model)
    assert r"\hline" not in text
    assert "|" not in re.search(r"\\begin\{tabular\}\{(.*)\}", text).group(1)
    assert r"\cmidrule(lr){5-8} \cmidrule(lr){9-10}" in text
    assert text.count(r"\cmidrule(lr){5-6} \cmidrule(lr){7-8} \cmidrule(lr){9-10}") == 2
    assert text.count(r"\midrule") == len(model.groups)


def test_latex_spans_are_as_wide_as_the_table(model):
    text = latex.render(model)
    width = len(re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text).group(1))
    for line in text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines():
        if line.endswith(r"\\"):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == width


def test_latex_sets_a_minus_sign_in_negative_differences(model):
    interval = Interval(-2.0, -1.0, p=0.01, df=2.0, spread=Spread(3, 100, 1.0, 2.0, 3.0))
    found = PairedDifference("bkd", -1.5, (0, 1, 2), interval, (), p_holm=0.03)
    cells = tuple(dataclasses.replace(cell, to_baseline=found) for cell in model.cells)
    text = latex.render(dataclasses.replace(model, cells=cells))
    assert text.count(r"{\scriptsize ($-$1.50 [$-$2.00, $-$1.00]$^{\S}$)}") == len(cells)


@pytest.mark.parametrize(("relative", "text"), [(False, "+0.0012 [-0.0002, +0.0026]"), (True, "+0.00% [-0.00, +0.00]")])
def test_differences_have_the_decimals_of_their_column_and_relative_ones_two(model, relative, text):
    interval = Interval(-0.0002, 0.0026, p=0.1, df=2.0, spread=Spread(3, 1, 1.0, 0.0, 0.0))
    found = PairedDifference("bkd", 0.0012, (0, 1, 2), interval, (), p_holm=0.1)
    cell = dataclasses.replace(model.cells[0], to_baseline=found, decimals=4, relative=relative)
    assert wording.difference(cell) == text.replace("-0.00,", "+0.00,")


def test_captions_name_the_method_of_each_interval(model):
    caption = wording.differences(model)
    assert "with 95 % interval (two-way over seeds and test images). §: p < 0.05 after Holm's adjustment" in caption
    relative = [dataclasses.replace(cell, relative=cell.column == model.columns[0].key) for cell in model.cells]
    mixed = wording.differences(dataclasses.replace(model, cells=tuple(relative)))
    assert "(two-way over seeds and test images, of other values by t over the seeds)" in mixed
    relative = [dataclasses.replace(cell, relative=True) for cell in model.cells]
    assert "interval (by t over the seeds)" in wording.differences(dataclasses.replace(model, cells=tuple(relative)))


def test_latex_escapes_every_special_character():
    escaped = latex.escape(NASTY)
    assert escaped == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}n $<$p$>$ $|$ "
        r"`c` *d* [e] $\pm$ $^{\dagger}$ --"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+L_LD", r"$+\mathcal{L}_{\mathrm{LD}}$"),
        ("KDSNN +L_BKD", r"KDSNN $+\mathcal{L}_{\mathrm{BKD}}$"),
        ("is that of L_BKD.", r"is that of $\mathcal{L}_{\mathrm{BKD}}$."),
        ("w/ G", r"w/ $\mathcal{G}$"),
        ("w/o G, w/ GPU", r"w/o $\mathcal{G}$, w/ GPU"),
        ("τ = 2, λ", r"$\tau$ = 2, $\lambda$"),
        ("XL_LD, L_x, 4 G", r"XL\_LD, L\_x, 4 G"),
    ],
)
def test_latex_sets_the_paper_s_notation_as_mathematics(text, expected):
    assert latex.escape(text) == expected


def test_markdown_escapes_what_would_be_markup():
    assert markdown.escape("+L_BKD | *x* [y] `z` <b> #") == r"+L\_BKD \| \*x\* \[y] \`z\` \<b\> \#"


@pytest.fixture
def pdflatex() -> str:
    found = shutil.which("pdflatex")
    if not found:
        pytest.skip("pdflatex absent: apt-get install texlive-latex-recommended")
    return found


def of_width(model: TableModel, times: int) -> TableModel:
    """The table with all its columns again and again."""
    columns, rows = (model.columns * times, [row * times for row in model.rows()])
    return dataclasses.replace(model, columns=columns, cells=tuple(cell for row in rows for cell in row))


@pytest.mark.parametrize(("times", "environment"), [(1, "table*"), (2, "sidewaystable*")])
def test_a_table_of_many_columns_stands_on_its_side(model, times, environment):
    text = latex.render(of_width(model, times))
    assert rf"\begin{{{environment}}}" in text and rf"\end{{{environment}}}" in text
    assert (r"\usepackage{rotating}" in text) is environment.startswith("sideways")


@pytest.mark.parametrize("options", ["a4paper", "a4paper,twocolumn"])
def test_latex_compiles_with_the_packages_it_names(model, pdflatex, tmp_path, options):
    nasty = dataclasses.replace(model, title=NASTY, footnotes=(NASTY,))
    narrow = dataclasses.replace(model, columns=model.columns[:1], cells=tuple(row[0] for row in model.rows()))
    texts = [latex.render(one) for one in (nasty, narrow, of_width(model, 3))]
    needs = "\n".join(re.search("^% Needs: (.*)$", text, flags=re.MULTILINE).group(1) for text in texts)
    body = "\n".join(texts)
    document = rf"""\documentclass[{options}]{{article}}
{needs}
\begin{{document}}
{body}
\end{{document}}
"""
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    arguments = ["-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run([pdflatex, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "Missing character" not in log
