"""Runs of another machine: what is sound comes in whole, what is not is named and stops nothing else."""

import json
import logging
import os
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_example import run

from bkdsnn import data
from bkdsnn.config import paper
from bkdsnn.core import files
from bkdsnn.core.errors import UserError
from bkdsnn.report.tables.measurement import measure
from bkdsnn.runs import checkpoint
from bkdsnn.runs.artefacts import ARTEFACTS, seal
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.slices import Slice
from bkdsnn.training.importing import import_runs

PLAN = paper.plan("table2a", "smoke")
STUDENT = PLAN.cell("bkdsnn", "resnet20-cifar10").runs[0]
TEACHER = STUDENT.teacher
NAMES = {TEACHER.name, STUDENT.name}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The results of another machine: data, a teacher and its student."""
    results = tmp_path_factory.mktemp("other") / "smoke"
    data.prepare(TEACHER.dataset, None, results / "data" / f"{TEACHER.dataset.name}.json")
    for spec in (TEACHER, STUDENT):
        run(spec, results)
    return results


@pytest.fixture
def source(other, tmp_path):
    """A copy of its runs, to be changed."""
    return shutil.copytree(other / "runs", tmp_path / "source" / "runs")


@pytest.fixture
def here(other, tmp_path):
    """Results of this machine, with the same data."""
    shutil.copytree(other / "data", tmp_path / "here" / "smoke" / "data")
    return tmp_path / "here" / "smoke"


@pytest.fixture(autouse=True)
def told(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def bring(source, here):
    import_runs(source, "smoke", here)


def refusal(source, here, told, name=STUDENT.name):
    """Import, and return the one line that says why a run was refused; nothing of it may be left."""
    with pytest.raises(UserError, match=r"runs refused; the reasons are above"):
        bring(source, here)
    (message,) = [line for line in told.messages if line.startswith(f"refused {name}: ")]
    assert "\n" not in message
    assert not (here / "runs" / name).exists() and not list(here.parent.glob(".import-*"))
    return message


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def resealed(folder):
    """Write the checksums of changed files into the metrics, as a careful forger would."""
    edit(folder / "metrics.json", files=seal(folder))


def archive(kind, source, target):
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as packed:
            for path in source.rglob("*"):
                packed.write(path, path.relative_to(source.parent))
    else:
        with tarfile.open(target, f"w:{kind}") as packed:
            packed.add(source, source.name)
    return target


@pytest.mark.parametrize("kind", ["folder", "", "gz", "zip"])
def test_runs_come_in_whole_from_folders_and_archives(kind, other, source, here):
    for folder in source.iterdir():
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.safetensors").write_bytes(b"no artefact")
    taken = source if kind == "folder" else archive(kind, source, source.parent / "runs.archive")
    bring(taken, here)
    assert {path.name for path in (here / "runs").iterdir()} == NAMES
    assert [path.name for path in here.parent.iterdir()] == ["smoke"]
    for name in NAMES:
        mine, theirs = content(here / "runs" / name), content(other / "runs" / name)
        assert mine.keys() == set(ARTEFACTS)
        provenance = json.loads(mine.pop("provenance.json"))
        (entry,) = provenance.pop("imported")
        assert entry["from"] == taken.name and entry["when"][:2] == "20"
        assert provenance == json.loads(theirs.pop("provenance.json"))
        assert mine == theirs


def test_a_run_folder_alone_comes_in_where_its_teacher_is(source, here):
    bring(source / TEACHER.name, here)
    bring(source / STUDENT.name, here)
    assert {path.name for path in (here / "runs").iterdir()} == NAMES


def test_an_imported_run_can_be_imported_once_more(source, here, tmp_path):
    bring(source, here)
    again = tmp_path / "third" / "smoke"
    shutil.copytree(here / "data", again / "data")
    bring(here / "runs", again)
    provenance = json.loads((again / "runs" / STUDENT.name / "provenance.json").read_text())
    assert [entry["from"] for entry in provenance["imported"]] == ["runs", "runs"]


def test_what_is_here_is_left_alone(source, here, told):
    bring(source, here)
    before = {name: content(here / "runs" / name) for name in NAMES}
    (source / STUDENT.name / "weights.safetensors").write_bytes(b"damaged")
    bring(source, here)
    assert {name: content(here / "runs" / name) for name in NAMES} == before
    assert told.messages[-1].endswith("here already, left alone")


def test_an_unfinished_attempt_gives_way(source, here):
    folder = RunFolder(here / "runs", STUDENT)
    folder.checkpoint.parent.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"half of a training")
    (folder.path / "failure.json").write_text("{}")
    bring(source, here)
    assert content(folder.path).keys() == set(ARTEFACTS)


def test_a_run_that_is_being_written_is_refused(source, here, told):
    folder = RunFolder(here / "runs", STUDENT)
    with folder.locked(Slice(None, folder.path)):
        with pytest.raises(UserError):
            bring(source, here)
        assert not folder.finished
    assert "another process" in next(line for line in told.messages if line.startswith("refused"))


def test_a_refused_run_stops_no_other(source, here, told):
    (source / STUDENT.name / "history.jsonl").unlink()
    assert "history.jsonl: no such file; expected all of" in refusal(source, here, told)
    assert content(here / "runs" / TEACHER.name).keys() == set(ARTEFACTS)


def test_a_run_is_refused_without_its_teacher(source, here, told):
    shutil.rmtree(source / TEACHER.name)
    assert f"it builds on run {TEACHER.name}, which is neither here nor imported" in refusal(source, here, told)


def test_a_run_is_refused_with_its_teacher(source, here, told):
    (source / TEACHER.name / "weights.safetensors").write_bytes(b"damaged")
    assert "neither here nor imported" in refusal(source, here, told)
    assert not (here / "runs" / TEACHER.name).exists()


def test_a_student_of_another_teacher_is_refused(source, here, told):
    """The same run on another machine: its weights may differ by rounding."""
    path = source / TEACHER.name / "weights.safetensors"
    weights = {name: tensor + 0.5 if name == "fc.bias" else tensor for name, tensor in load_file(path).items()}
    checkpoint.write_tensors(path, weights, {"spec": TEACHER.digest})
    resealed(source / TEACHER.name)
    message = refusal(source, here, told)
    assert f"was built on weights of {TEACHER.name} with SHA-256 " in message
    assert (here / "runs" / TEACHER.name).is_dir()


def test_a_table_refuses_a_student_of_another_teacher(source, here):
    bring(source, here)
    path = here / "runs" / STUDENT.name / "metrics.json"
    edit(path, parents={TEACHER.name: "0" * 64})
    with pytest.raises(UserError, match=f"built on weights of {TEACHER.name} with SHA-256 0000000000, but those in"):
        measure(PLAN, here)


def test_a_run_of_an_older_version_does_not_say_what_it_is_built_on(source, here):
    content = json.loads((source / STUDENT.name / "metrics.json").read_text())
    assert content.pop("parents").keys() == {TEACHER.name}
    (source / STUDENT.name / "metrics.json").write_text(json.dumps(content))
    bring(source, here)
    assert {path.name for path in (here / "runs").iterdir()} == NAMES


def test_runs_of_another_scale_are_refused(source, here, told):
    with pytest.raises(UserError, match="2 of 2 runs refused"):
        import_runs(source, "demo", here)
    assert "no table names this run at scale 'demo', but one does at scale 'smoke': give --scale smoke" in told.text
    assert not (here / "runs").exists()


def test_a_run_that_no_table_names_is_refused_with_what_to_do_with_it(source, here, told):
    name = f"{STUDENT.name[:-10]}0123456789"
    (source / STUDENT.name).rename(source / name)
    assert "or at any other: it is a run of `train --spec`, of tables in" in refusal(source, here, told, name)


def test_runs_on_other_data_are_refused(source, here, told):
    edit(here / "data" / f"{STUDENT.dataset.name}.json", digest="0" * 64)
    assert "has 0000000000: other data" in refusal(source, here, told, TEACHER.name)


def test_absent_data_are_told(source, here, told):
    shutil.rmtree(here / "data")
    bring(source, here)
    assert f"absent here: {here / 'data' / STUDENT.dataset.name}.json; tables compare" in told.messages[-1]


def test_a_run_of_an_older_version_without_checksums_is_accepted(source, here):
    for folder in source.iterdir():
        edit(folder / "metrics.json", files={})
    bring(source, here)
    assert {path.name for path in (here / "runs").iterdir()} == NAMES


def test_a_source_without_runs_is_refused_at_once(here, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no finished run in it \(a folder with metrics.json\); expected a run"):
        bring(tmp_path / "empty", here)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(UserError, match=r"text: cannot be unpacked \(.*\); expected a run folder, a folder of"):
        bring(tmp_path / "text", here)
    assert [path.name for path in here.parent.iterdir()] == ["smoke"]


@pytest.mark.parametrize("name", ["weights.safetensors", "predictions.npz", "history.jsonl", "spec.json"])
def test_a_file_that_was_not_sealed_so_is_refused(name, source, here, told):
    twin = source / STUDENT.name / name
    kept = twin.read_bytes()
    twin.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]) if name == "weights.safetensors" else kept + b"\n")
    assert f"{name}: " in refusal(source, here, told)


def forged_weights(change):
    def forge(folder):
        tensors = load_file(folder / "weights.safetensors")
        with safe_open(folder / "weights.safetensors", "pt") as stream:
            header = json.loads(stream.metadata()["bkdsnn"])
        change(tensors, header)
        checkpoint.write_tensors(folder / "weights.safetensors", tensors, header)

    return forge


def rewritten(**arrays):
    def forge(folder):
        with np.load(folder / "predictions.npz") as stored:
            kept = dict(stored)
        np.savez_compressed(folder / "predictions.npz", **{**kept, **arrays})

    return forge


def edited(name, **changes):
    return lambda folder: edit(folder / name, **changes)


def histories(*records):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    return lambda folder: (folder / "history.jsonl").write_text(lines)


def poisoned(folder):
    """Another tensor of the same shapes, under the old checksum."""
    path = folder / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


EPOCH = {"epoch": 1, "top1": 50.0, "seconds": 1.0}
COUNT = 20
FORGERIES = {
    "another spec": (edited("spec.json", seed=7), "spec.json: belongs to spec"),
    "no spec": (lambda folder: (folder / "spec.json").write_text("{"), "spec.json: not valid JSON"),
    "metrics of another run": (edited("metrics.json", spec="0" * 64), "metrics.json: 'spec' is '0000"),
    "name of another run": (edited("metrics.json", run=TEACHER.name), "metrics.json: 'run' is"),
    "weights of another run": (forged_weights(lambda _, header: header.update(spec="0" * 64)), "belongs to spec 00000"),
    "weights that were changed": (poisoned, "weights.safetensors: damaged (CRC-32 is"),
    "a tensor that is missing": (forged_weights(lambda tensors, _: tensors.pop("fc.bias")), "lacks tensor 'fc.bias'"),
    "a tensor too many": (forged_weights(lambda t, _: t.update(more=torch.ones(1))), "has unknown tensor 'more'"),
    "a tensor of another shape": (
        forged_weights(lambda tensors, _: tensors.update({"fc.bias": torch.ones(3)})),
        "'fc.bias' has shape (3,), expected",
    ),
    "another size": (edited("metrics.json", parameters=12), "parameters, but metrics.json says 12"),
    "another accuracy": (rewritten(correct=np.ones(COUNT, dtype=bool)), "100.0 % are right, expected"),
    "too few predictions": (rewritten(predicted=np.zeros(3, np.int16)), "'predicted' is int16 (3,), expected int16"),
    "a class there is not": (rewritten(predicted=np.full(COUNT, 10, np.int16)), "'predicted' has 10 to 10, expected 0"),
    "epochs too many": (
        histories(EPOCH, EPOCH | {"epoch": 2}),
        "history.jsonl: 2 epochs that end in 1, 2, expected 1 to 1",
    ),
    "another best epoch": (histories(EPOCH | {"top1": 99.0}), "best top-1 is 99.0 in epoch 1, but metrics.json says"),
    "a history of something else": (histories({"epoch": "one"}), "history.jsonl, line 1: "),
    "a history that is no text": (lambda folder: (folder / "history.jsonl").write_bytes(b"\xff"), "cannot be read"),
    "epochs that were not planned": (
        edited("metrics.json", epochs=3),
        "metrics.json: 'epochs' is 3, expected 1 as in history.jsonl",
    ),
    "provenance of other data": (edited("provenance.json", data_digest="0" * 64), "'data_digest' is 0000000000"),
    "no provenance": (lambda folder: (folder / "provenance.json").write_text("[]"), "provenance.json: "),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_run_is_refused_even_with_new_checksums(forgery, source, here, told):
    forge, message = FORGERIES[forgery]
    forge(source / STUDENT.name)
    resealed(source / STUDENT.name)
    assert message in refusal(source, here, told)


class Malice:
    """What runs a command when it is unpickled without restrictions."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["weights.safetensors", "predictions.npz", "metrics.json", "spec.json"])
def test_a_pickle_in_place_of_a_file_runs_nothing(name, source, here, told, tmp_path):
    marker = tmp_path / "ran"
    (source / STUDENT.name / name).write_bytes(pickle.dumps(Malice(marker)))
    assert name in refusal(source, here, told)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["correct", "predicted"])
def test_predictions_of_objects_run_nothing(name, source, here, told, tmp_path):
    marker = tmp_path / "ran"
    rewritten(**{name: np.array([Malice(marker)] * COUNT, dtype=object)})(source / STUDENT.name)
    resealed(source / STUDENT.name)
    assert f"no array '{name}' can be read from it (Object arrays cannot be loaded" in refusal(source, here, told)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/bkdsnn-escaped"])
def test_an_archive_that_leads_out_brings_nothing(name, source, here):
    packed = archive("gz", source, source.parent / "runs.tar.gz")
    with tarfile.open(packed, "w:gz") as hostile:
        hostile.add(source, "runs")
        hostile.addfile(tarfile.TarInfo(f"{name}/metrics.json"))
    with pytest.raises(UserError, match="is not a plain file below the folder"):
        bring(packed, here)
    assert not (here / "runs").exists() and [path.name for path in here.parent.iterdir()] == ["smoke"]


def test_checksums_are_those_of_the_files(other):
    folder = other / "runs" / STUDENT.name
    sealed = json.loads((folder / "metrics.json").read_text())["files"]
    assert sealed == {name: files.sha256(folder / name) for name in sealed} and len(sealed) == 4
