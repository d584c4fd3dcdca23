"""The rows of docs/deviations.md: ids that code, configuration and captions cite, and switches and files that exist."""

import re
from pathlib import Path

import pytest

from bkdsnn.config import BKD, KDSNN, LD, TET, Augment, Events, HardLD, LaSNN, Mix, Pretrained
from bkdsnn.config.catalogue import load_table, table_names
from bkdsnn.config.declarations import Table, cited
from bkdsnn.config.figure_plans import figure_names, load_figure
from bkdsnn.config.paper import plan

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("|").split(" | ") for line in PAGE[PAGE.index("## Distillation") :].splitlines() if "---" not in line
]
ROWS = [[cell.strip() for cell in row] for row in ROWS if len(row) > 1 and row[0].strip() != "id"]
IDS = [row[0] for row in ROWS]
PARTS = {part.model_fields["method"].default: part for part in (BKD, LD, HardLD, KDSNN, LaSNN)} | {
    "augment": Augment,
    "events": Events,
    "loss": TET,
    "mix": Mix,
    "pretrained": Pretrained,
}
SAME = ("the same", "as in the paper")  # beginnings of what needs no mention in the code


def files() -> list[Path]:
    found = [path for folder in ("bkdsnn", "config", "docs") for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in found if path.suffix in {".py", ".yaml", ".md"}] + [ROOT / "README.md"]


def test_every_row_has_an_id_of_its_own_and_a_cell_for_every_column():
    assert all(re.fullmatch(r"D-\d{3}", one) for one in IDS), "every row begins with an id such as D-001"
    assert len(set(IDS)) == len(IDS) > 100
    assert {len(row) for row in ROWS} == {6}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_id_that_is_cited_exists(path):
    assert set(re.findall(r"\bD-\d+", path.read_text(encoding="utf-8"))) <= set(IDS)


@pytest.mark.parametrize("name", table_names())
def test_every_table_of_the_paper_names_the_deviations_that_its_reader_must_know(name):
    table = load_table(name)
    assert table.deviations and list(table.deviations) == sorted(set(table.deviations))
    assert "D-148" in table.deviations or "top1" not in {column.metric for column in table.columns}


@pytest.mark.parametrize("name", figure_names())
def test_every_figure_names_the_deviations_that_its_reader_must_know(name):
    assert load_figure(name).deviations


def test_the_note_names_them_and_no_note_names_none():
    assert cited(("D-001", "D-148")) == ["Deviations: D-001, D-148 (docs/deviations.md)."]
    assert cited(()) == []


def test_an_id_of_another_form_is_refused():
    content = load_table("table2a").model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match="deviations"):
        Table.model_validate(content | {"deviations": ["D-1"]})


def test_the_deviations_of_a_table_are_no_part_of_its_runs():
    assert not any("D-148" in run.canonical() for run in plan("table2a", "demo").runs().values())


def test_what_differs_is_cited_where_it_is_decided():
    text = "\n".join(path.read_text(encoding="utf-8") for path in files() if path.suffix != ".md")
    ranges = re.findall(r"D-(\d{3}) to D-(\d{3})", text)
    named = set(re.findall(r"D-\d{3}", text)) | {f"D-{n:03d}" for a, b in ranges for n in range(int(a), int(b) + 1)}
    uncited = [row[0] for row in ROWS if not row[4].startswith(SAME) and row[0] not in named]
    assert not uncited, f"cite them in bkdsnn/ or config/ where the choice is made: {', '.join(uncited)}"


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_switch_exists(row):
    for part, option in re.findall(r"`([a-z-]+)\.(\w+)", row[5]):
        if part != "recipes":  # by role, see `Subject.recipes`
            assert option in PARTS[part].model_fields, f"{row[0]}: no option {part}.{option}"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:config|bkdsnn|docs)/[^`]*)`", PAGE))))
def test_every_file_that_is_named_exists(name):
    pattern = re.sub(r"<\w+>", "*", name)
    assert list(ROOT.glob(pattern)), f"docs/deviations.md names {name}"
