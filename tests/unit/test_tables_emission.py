"""Files that are written, and the terminal summary."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from tables_example import example_plan, example_results

from bkdsnn.analysis.energy import Constants
from bkdsnn.core.errors import UserError
from bkdsnn.report.tables import csv, emit, latex, markdown, measure, summary


@pytest.fixture
def plan():
    return example_plan()


def test_three_files_are_written_and_nothing_else(plan, tmp_path):
    example_results(plan, tmp_path)
    folder = tmp_path / "tables"
    paths = emit(plan, tmp_path, folder, Constants())
    assert paths == {suffix: folder / f"table9z.{suffix}" for suffix in ("csv", "tex", "md")}
    assert sorted(folder.iterdir()) == sorted(paths.values())
    model = measure(plan, tmp_path)
    for suffix, renderer in (("csv", csv), ("tex", latex), ("md", markdown)):
        assert paths[suffix].read_bytes().decode() == renderer.render(model)


def test_a_table_is_replaced_by_a_new_file_not_rewritten(plan, tmp_path):
    paths = emit(plan, tmp_path, tmp_path / "tables", Constants())
    with paths["md"].open() as reader:
        before = reader.read()
        example_results(plan, tmp_path)
        emit(plan, tmp_path, tmp_path / "tables", Constants())
        reader.seek(0)
        assert reader.read() == before  # whoever reads the old table still sees all of it
    assert paths["md"].read_text() != before


def test_unusable_results_leave_the_old_table_alone(plan, tmp_path):
    example_results(plan, tmp_path)
    paths = emit(plan, tmp_path, tmp_path / "tables", Constants())
    before = {suffix: path.read_bytes() for suffix, path in paths.items()}
    metrics = tmp_path / "runs" / plan.cell("ann", "resnet19-cifar10").runs[0].name / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "spec": "0" * 64}))
    with pytest.raises(UserError, match="metrics"):
        emit(plan, tmp_path, tmp_path / "tables", Constants())
    assert {suffix: path.read_bytes() for suffix, path in paths.items()} == before


def test_a_folder_that_cannot_be_made_is_named(plan, tmp_path):
    (tmp_path / "tables").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*tables/table9z\.csv"):
        emit(plan, tmp_path, tmp_path / "tables", Constants())


def test_summary_counts_the_states_and_shows_the_table(plan, tmp_path):
    model = measure(plan, example_results(plan, tmp_path))
    head, _, table = summary(model).partition("\n\n")
    assert head == "table9z at scale demo: 18 cells, 9 measured, 3 partial, 1 failed, 5 not run"
    assert table == markdown.table(model)


def test_summary_names_only_states_that_occur(plan, tmp_path):
    assert summary(measure(plan, tmp_path)).startswith("table9z at scale demo: 18 cells, 18 not run\n")


def test_tables_import_nothing_heavy():
    heavy = ("torch", "torchvision", "timm", "pandas", "matplotlib", "scipy.stats", "sklearn")
    code = f"import sys, bkdsnn.report.tables; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_a_row_names_the_time_steps_of_all_its_columns(plan, tmp_path):
    model = measure(plan, tmp_path)
    first = [
        dataclasses.replace(cell, timesteps=steps) for cell, steps in zip(model.rows()[0], (10, 8, 10), strict=True)
    ]
    model = dataclasses.replace(model, cells=(*first, *model.cells[len(first) :]))
    lines = [line for line in markdown.render(model).splitlines() if line.endswith("| 10, 8 |")]
    assert len(lines) == 1 and first[0].label in lines[0]
    assert sum(line.rstrip().endswith(r"& 10, 8 \\") for line in latex.render(model).splitlines()) == 1
    assert csv.render(model).count(",10,not run") == 2
