"""Runs from elsewhere: what enters, what is refused, and that nothing in them is executed."""

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from training_example import run

from bkdsnn import cli, data, paper
from bkdsnn.errors import UserError
from bkdsnn.importing import bring
from bkdsnn.runs import ARTEFACTS, RunFolder

CELL = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10")
STUDENT = CELL.runs[0]
TEACHER = STUDENT.teacher


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs of another machine: a student and its teacher."""
    results = tmp_path_factory.mktemp("there") / "results" / "smoke"
    data.prepare(STUDENT.dataset, None, results / "data" / f"{STUDENT.dataset.name}.json")
    for spec in (TEACHER, STUDENT):
        run(spec, results)
    return results


@pytest.fixture
def there(made, tmp_path):
    return shutil.copytree(made / "runs", tmp_path / "there")


@pytest.fixture
def here(tmp_path):
    return tmp_path / "results" / "smoke"


def entered(here):
    return {path.name for path in (here / "runs").glob("*") if (path / "metrics.json").exists()}


def test_runs_enter_with_all_that_they_left_and_say_that_they_did(there, here):
    bring(there, "smoke", here)
    for spec in (STUDENT, TEACHER):
        folder, source = RunFolder(here / "runs", spec), there / spec.name
        assert sorted(path.name for path in folder.path.iterdir()) == sorted(ARTEFACTS)
        for name in set(ARTEFACTS) - {"provenance.json"}:
            assert (folder.path / name).read_bytes() == (source / name).read_bytes()
        provenance = json.loads((folder.path / "provenance.json").read_text())
        assert provenance.pop("imported").keys() == {"from", "at"}
        assert provenance == json.loads((source / "provenance.json").read_text())
        assert folder.weights()


def archived(folder, target):
    """Pack a folder into the archive `target`."""
    kind = {".zip": "zip", ".gz": "gztar", ".tar": "tar"}[target.suffix]
    name = str(target).removesuffix("".join(target.suffixes))
    return Path(shutil.make_archive(name, kind, folder.parent, folder.name))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar"])
def test_archives_are_unpacked_and_leave_nothing_else(there, here, tmp_path, suffix):
    archive = archived(there, tmp_path / f"runs{suffix}")
    bring(archive, "smoke", here)
    assert entered(here) == {STUDENT.name, TEACHER.name}
    assert [path.name for path in here.iterdir()] == ["runs"]


def test_a_run_that_is_here_is_left_alone_and_one_without_its_teacher_is_told(there, here, caplog):
    with caplog.at_level("INFO", "bkdsnn"):
        bring(there / STUDENT.name, "smoke", here)
        assert f"{STUDENT.name} is built on {TEACHER.name}, which is not here" in caplog.text
        mark = RunFolder(here / "runs", STUDENT).path / "history.jsonl"
        mark.write_text("mine")
        bring(there, "smoke", here)
    assert f"{STUDENT.name}: is here already" in caplog.text and mark.read_text() == "mine"
    assert entered(here) == {STUDENT.name, TEACHER.name}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_spec(folder, there):
    rewrite(folder / "spec.json", lambda spec: spec["recipe"].update(epochs=99))


def other_run(folder, there):
    rewrite(folder / "metrics.json", lambda metrics: metrics.update(spec="0" * 64))


def other_weights(folder, there):
    shutil.copy(there / TEACHER.name / "weights.safetensors", folder)


def damaged_weights(folder, there):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def better_accuracy(folder, there):
    rewrite(folder / "metrics.json", lambda metrics: metrics["top1"].update(last=99.0, best=99.0))


def better_epoch(folder, there):
    rewrite(folder / "metrics.json", lambda metrics: metrics["top1"].update(best=99.0))


def pickled_predictions(folder, there):
    correct = np.empty(20, dtype=object)
    correct[0] = Bomb(there / "executed")
    with (folder / "predictions.npz").open("wb") as stream:
        np.savez(stream, predicted=np.zeros(20), correct=correct)


def pickle_alone(folder, there):
    (folder / "predictions.npz").write_bytes(pickle.dumps(Bomb(there / "executed")))


def strange_classes(folder, there):
    with np.load(folder / "predictions.npz") as arrays:
        content = {"predicted": arrays["predicted"] + 1000, "correct": arrays["correct"]}
    np.savez(folder / "predictions.npz", **content)


def short_history(folder, there):
    (folder / "history.jsonl").write_text("")


def other_data(folder, there):
    rewrite(folder / "provenance.json", lambda provenance: provenance.update(data_digest="0" * 64))


def absent(folder, there):
    (folder / "spec.json").unlink()


def linked(folder, there):
    (folder / "spec.json").rename(there / "spec.json")
    (folder / "spec.json").symlink_to(there / "spec.json")


def unknown(folder, there):
    rewrite(folder / "metrics.json", lambda metrics: metrics.update(run="digits-9-s0-0123456789"))


REFUSED = {
    other_spec: "spec.json: 'spec' is ",
    other_run: "metrics.json: 'spec' is '0000",
    other_weights: "weights.safetensors: 'spec' is ",
    damaged_weights: "weights.safetensors: damaged (CRC-32 is ",
    better_accuracy: "expected 99.00 % as in metrics.json",
    better_epoch: "history.jsonl: 'top1' is ",
    pickled_predictions: "predictions.npz: no array 'correct' can be read",
    pickle_alone: "predictions.npz: no array 'correct' can be read",
    strange_classes: "predictions.npz: 'predicted' has other than 20 classes from 0 to 9",
    short_history: "history.jsonl: 'epoch' is [], expected [1",
    other_data: "provenance.json: 'data_digest' is '0000",
    absent: "spec.json: no such file",
    linked: "spec.json: no such file",
    unknown: "unknown run 'digits-9-s0-0123456789'",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_does_not_fit_is_refused_and_stops_no_other(there, here, change, capsys):
    change(there / STUDENT.name, there)
    assert cli.main(["import", str(there), "--scale", "smoke", "--results", str(here.parent)]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "1 of 2 runs were refused: " in said[-1] and REFUSED[change] in said[-1]
    assert entered(here) == {TEACHER.name} and not (there / "executed").exists()


def test_other_data_than_here_are_refused(there, here):
    manifest = here / "data" / f"{STUDENT.dataset.name}.json"
    data.prepare(STUDENT.dataset, None, manifest)
    bring(there / TEACHER.name, "smoke", here)
    rewrite(manifest, lambda content: content.update(digest="f" * 64))
    with pytest.raises(UserError, match=r"'dataset.digest' is '.*, expected 'fffff"):
        bring(there / STUDENT.name, "smoke", here)


def tar_of(path, name, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "/etc", 4 if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(b"evil") if member.size else None)
    return path


def zip_of(path, name, mode=0):
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        archive.writestr(member, "evil")
    return path


HOSTILE = {
    "tar above": lambda folder: tar_of(folder / "a.tar", "../../escaped"),
    "tar absolute": lambda folder: tar_of(folder / "a.tar", str(folder / "escaped")),
    "tar link": lambda folder: tar_of(folder / "a.tar", "escaped", tarfile.SYMTYPE),
    "tar device": lambda folder: tar_of(folder / "a.tar", "escaped", tarfile.CHRTYPE),
    "zip above": lambda folder: zip_of(folder / "a.zip", "../../escaped"),
    "zip link": lambda folder: zip_of(folder / "a.zip", "escaped", 0o120777),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_archives_that_lead_out_are_refused(here, tmp_path, kind):
    with pytest.raises(UserError, match=r"a\.\w+: cannot be unpacked \('.*escaped' is not a plain file below"):
        bring(HOSTILE[kind](tmp_path), "smoke", here)
    assert not list(tmp_path.rglob("escaped")) and not list(here.iterdir())


def test_an_archive_larger_than_the_disk_is_refused(here, tmp_path):
    """A member of zeros says that it has more bytes than there is room for."""
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("zeros")
    member.size = shutil.disk_usage(tmp_path).free
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="with 'zeros' it holds more than half of what the disk has free"):
        bring(path, "smoke", here)
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", ["nowhere", "empty", "text"])
def test_what_holds_no_run_is_named(here, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(UserError, match=rf"{name}: .*; expected a run's folder"):
        bring(tmp_path / name, "smoke", here)
