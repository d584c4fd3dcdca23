"""The ledger of real attempts: finished, interrupted, failed, killed; and its table."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
from training_example import CPU, run

from bkdsnn import cli, data
from bkdsnn.config import paper
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.report.tables.ledger_table import STATES, emit
from bkdsnn.runs import ledger
from bkdsnn.runs.ledger import AttemptWriter, read, under_way
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.slices import Slice
from bkdsnn.training.execute import execute

SPEC = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0]


@pytest.fixture
def results(tmp_path):
    """A folder with data and the teacher."""
    results = tmp_path / "all" / "smoke"
    data.prepare(SPEC.dataset, None, results / "data" / f"{SPEC.dataset.name}.json")
    run(SPEC.teacher, results)
    return results


@pytest.fixture
def folder(results):
    return RunFolder(results / "runs", SPEC)


def slice_of_one_step(results):
    with pytest.raises(Interrupted):
        execute(SPEC, results, results / "resources", CPU, 1e-9)


def test_every_attempt_is_entered_and_outlives_the_folder_of_its_run(results, folder):
    slice_of_one_step(results)
    teacher = folder.of(SPEC.teacher).path / "metrics.json"
    kept = teacher.read_text()
    teacher.unlink()
    with pytest.raises(UserError, match="not finished"):
        run(SPEC, results)
    teacher.write_text(kept)
    AttemptWriter(folder.ledger, lambda: 7.0, SPEC, "a CPU", (0, 1))  # and killed
    run(SPEC, results)
    shutil.rmtree(folder.path)
    found = read(folder.ledger)
    assert [one.event for one in found] == ["interrupted", "failed", "began", "finished"]
    assert [one.origin for one in found] == [None, (0, 1), (0, 1), (0, 1)]
    assert found[0].reached == (0, 1) and found[3].reached == (SPEC.recipe.total_epochs, 0)
    assert "is not finished" in found[1].message and found[2].peak_memory_mb == 7.0
    assert all(one.seconds > 0 for one in found if one.event != "began")
    assert all(one.peak_memory_mb > 0 for one in found)
    assert len({one.attempt for one in found}) == 4 and {one.spec for one in found} == {SPEC.digest}


def test_provenance_has_the_attempts_of_this_result_only(results, folder):
    slice_of_one_step(results)
    run(SPEC, results)
    shutil.rmtree(folder.path)
    path = run(SPEC, results)
    (own,) = json.loads((path / "provenance.json").read_text())["attempts"]
    assert own["origin"] is None and own["device"].endswith("CPU, 1 threads")


def test_the_peak_memory_of_a_process_is_not_that_of_the_process_which_started_it():
    probe = "import torch; from bkdsnn.machine import devices; print(devices.peak_memory_mb(torch.device('cpu')))"
    own = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    starter = f"import subprocess; large = b'x' * 2**31; subprocess.run([{sys.executable!r}, '-c', {probe!r}])"
    by_large = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, check=True).stdout
    assert float(by_large) == pytest.approx(float(own), rel=0.1)


@pytest.mark.parametrize("keep", [-1, -20])
def test_half_a_line_spoils_no_other(results, folder, keep):
    slice_of_one_step(results)
    folder.ledger.write_bytes(folder.ledger.read_bytes()[:keep])
    slice_of_one_step(results)
    first, second = read(folder.ledger)
    assert (first.event, second.event) == ("interrupted" if keep == -1 else "saved", "interrupted")


def test_lines_of_something_else_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"attempt": "1", "run": 3}\n')
    with pytest.raises(UserError, match=r"x\.jsonl: .*'event'"):
        read(tmp_path / "x.jsonl")
    assert read(tmp_path / "absent.jsonl") == []


def test_a_full_disk_stops_no_training_for_the_ledgers_sake(results, folder, monkeypatch):
    append = ledger._append

    def full(path, line):
        if '"saved"' in line or '"finished"' in line:
            raise UserError("cannot write: no space")
        append(path, line)

    monkeypatch.setattr(ledger, "_append", full)
    run(SPEC, results)
    assert folder.finished and [one.event for one in read(folder.ledger)] == ["began"]


def test_a_lock_that_is_held_is_seen(folder):
    assert not under_way(folder.lock)
    with folder.locked(Slice(None, folder.path)):
        assert under_way(folder.lock)
    assert not under_way(folder.lock)


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_every_attempt_and_sums_them_by_kind(results, folder):
    slice_of_one_step(results)
    run(SPEC, results)
    AttemptWriter(folder.ledger, lambda: 2048.0, SPEC, "a CPU", None)
    with folder.locked(Slice(None, folder.path)):
        running = emit(results, results / "tables")
        assert [row["state"] for row in rows(running["csv"])] == ["finished", "interrupted", "finished", "running"]
    paths = emit(results, results / "tables")
    attempts = rows(paths["csv"])
    assert [row["state"] for row in attempts] == ["finished", "interrupted", "finished", "killed"]
    lines = [line.strip("| \n").split("|") for line in paths["md"].read_text().splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    total = dict(zip(head, body[-1]))
    assert (total["device"], total["runs"], total["attempts"]) == ("all", "2", "4")
    assert [total[state] for state in STATES] == ["2", "1", "0", "1", "0"]
    assert float(total["hours"]) == pytest.approx(sum(float(row["seconds"]) for row in attempts) / 3600, abs=6e-4)
    assert float(total["memory (GiB)"]) >= 2.0
    assert sum(int(dict(zip(head, line))["attempts"]) for line in body[:-1]) == 4


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_the_latex_compiles(results, tmp_path):
    emit(results, tmp_path)
    page = (
        r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}\input{ledger}\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:]


def test_without_attempts_the_table_says_so(tmp_path):
    assert cli.main(["ledger", "--scale", "smoke", "--results", str(tmp_path)]) == 0
    assert rows(tmp_path / "smoke" / "tables" / "ledger.csv") == []
    assert "| all " in (tmp_path / "smoke" / "tables" / "ledger.md").read_text()
