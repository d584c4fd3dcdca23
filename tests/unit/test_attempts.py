"""Retries: they go on where there was progress, and refuse where there was none."""

import json
import os
import signal

import pytest
from training_example import CPU, run

from bkdsnn import cli
from bkdsnn.config import paper
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.data import prepare
from bkdsnn.runs.attempts import expect_progress, standing
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training import execute as execution
from bkdsnn.training.execute import execute


@pytest.fixture
def results(tmp_path):
    return tmp_path / "all" / "smoke"


@pytest.fixture
def spec():
    return paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0]


@pytest.fixture
def folder(results, spec):
    """The folder of a student whose data and teacher are there."""
    prepare(spec.dataset, None, results / "data" / f"{spec.dataset.name}.json")
    run(spec.teacher, results)
    return RunFolder(results / "runs", spec)


def slice_of_one_step(spec, results):
    with pytest.raises(Interrupted):
        execute(spec, results, results / "resources", CPU, 1e-9)


def train(spec, results, attempt):
    line = ["train", spec.name, "--scale", "smoke", "--results", str(results.parent), "--device", "cpu"]
    return cli.main([*line, "--attempt", str(attempt)])


def test_a_checkpoint_says_where_it_stands(folder, spec, results):
    assert standing(folder.checkpoint) is None
    slice_of_one_step(spec, results)
    assert standing(folder.checkpoint) == (0, 1)
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:100])
    assert standing(folder.checkpoint) is None


def test_an_attempt_that_got_further_is_continued(folder, spec, results):
    slice_of_one_step(spec, results)
    expect_progress(folder, 2)
    slice_of_one_step(spec, results)
    expect_progress(folder, 3)
    assert train(spec, results, 3) == 0
    begun = [one["origin"] for one in json.loads((folder.path / "provenance.json").read_text())["attempts"]]
    assert begun == [None, [0, 1], [0, 2]]
    expect_progress(folder, 4)  # finished


def test_an_error_is_not_retried_but_for_a_person(folder, spec, results, capsys):
    teacher = folder.of(spec.teacher).path / "weights.safetensors"
    kept = teacher.read_bytes()
    teacher.write_bytes(kept[:-100])
    assert train(spec, results, 1) == 1
    first = capsys.readouterr().err
    assert "damaged" in first
    assert train(spec, results, 2) == train(spec, results, 3) == 1
    told = list(dict.fromkeys(capsys.readouterr().err.splitlines()))  # each call in this process adds a handler
    assert "attempt 1 saved nothing after its beginning" in told[0] and "attempt 2 saved nothing after" in told[1]
    assert all(line.count("damaged") == 1 and "start snakemake again" in line for line in told)
    assert len(folder.attempts()) == 1  # the refused ones never began
    teacher.write_bytes(kept)
    assert train(spec, results, 1) == 0


def test_a_crash_after_progress_is_retried_once_more(folder, spec, results):
    slice_of_one_step(spec, results)
    folder.begin("a CPU", standing(folder.checkpoint), lambda: 1.0)  # and killed
    with pytest.raises(UserError, match=r"attempt 2 saved nothing after epoch 1, step 1 \(it was killed\)"):
        expect_progress(folder, 3)
    assert "it was killed" in json.loads((folder.path / "failure.json").read_text())["message"]


def test_results_that_were_deleted_with_their_job_are_made_again(folder, spec, results):
    run(spec, results)
    for path in folder.path.iterdir():  # as Snakemake does when the job is killed at its end
        path.unlink()
    assert train(spec, results, 2) == 0 and folder.finished


def test_an_error_after_results_were_deleted_is_not_retried(folder, spec, results):
    run(spec, results)
    for path in folder.path.iterdir():
        path.unlink()
    folder.failed("its data is damaged")
    with pytest.raises(UserError, match=r"attempt 1 saved nothing after its beginning \(its data is damaged\)"):
        expect_progress(folder, 2)


def test_a_signal_does_not_interrupt_the_writing_of_results(folder, spec, results, monkeypatch):
    write = execution.write_artefacts

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        write(*arguments)

    monkeypatch.setattr(execution, "write_artefacts", signalled)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises, where nobody waits for it
    try:
        run(spec, results)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert folder.finished


def test_who_never_began_is_not_retried(folder, spec, results):
    with pytest.raises(UserError, match=r"attempt 1 saved nothing after its beginning"):
        expect_progress(folder, 2)


def test_an_error_that_nobody_foresaw_is_recorded_with_its_kind(results, spec):
    folder = RunFolder(results / "runs", spec)
    with pytest.raises(KeyError), folder.recorded():
        raise KeyError("fc")
    assert json.loads(folder.failure.read_text())["message"] == "KeyError: 'fc'"
