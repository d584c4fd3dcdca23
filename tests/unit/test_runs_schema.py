"""The records of a run: what is written is what is read, and nothing impossible is either."""

import json
import math

import pytest
from figures_example import provenance

from bkdsnn.core.errors import UserError
from bkdsnn.runs import schema
from bkdsnn.runs.schema import Attempt, Data, Epoch, Gradients, Import, Metrics, Provenance, Start, Top1

METRICS = Metrics(
    run="r",
    spec="s",
    top1=Top1(last=50.0, best=60.0, best_epoch=1),
    parameters=3,
    epochs=2,
    test_images=10,
    dataset=Data(name="digits", label="digits (embedded)", digest="d"),
    seconds=1e-7,
    files={"spec.json": "a"},
    parents={"teacher": "b"},
)
EPOCH = Epoch(
    epoch=1,
    lr=0.1,
    losses={"ce": 1.0},
    gradients=Gradients(task=1e-9, bkd=2.0, cosine=-1.0),
    top1=50.0,
    images_per_second=3.0,
    seconds=2.0,
    evaluation_seconds=0.5,
    peak_memory_mb=100.0,
)
OLD_EPOCH = {"epoch": 1, "losses": {"ce": 1.0}, "top1": 50.0, "images_per_second": 1.0, "seconds": 2.0}


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_what_is_written_is_what_is_read(tmp_path):
    schema.write(tmp_path / "metrics.json", METRICS)
    assert schema.read(Metrics, tmp_path / "metrics.json") == METRICS
    about = Provenance(**provenance("a CPU"), imported=[Import.model_validate({"when": "now", "from": "there"})])
    schema.write(tmp_path / "provenance.json", about)
    assert schema.read(Provenance, tmp_path / "provenance.json") == about
    assert json.loads((tmp_path / "provenance.json").read_text())["imported"] == [{"when": "now", "from": "there"}]
    lines(tmp_path / "history.jsonl", EPOCH.model_dump(), EPOCH.model_dump(exclude_none=True))
    assert schema.read_lines(Epoch, tmp_path / "history.jsonl") == [EPOCH, EPOCH]


def test_records_of_the_first_version_can_be_read(tmp_path):
    (epoch,) = schema.read_lines(Epoch, lines(tmp_path / "history.jsonl", OLD_EPOCH))
    assert (epoch.lr, epoch.evaluation_seconds, epoch.gradients, epoch.peak_memory_mb) == (None,) * 4
    old = METRICS.model_dump(exclude={"files", "parents"})
    assert schema.read(Metrics, lines(tmp_path / "metrics.json", old)).files == {}
    about = schema.read(Provenance, lines(tmp_path / "provenance.json", provenance("a CPU")))
    assert about.neurons == [] and about.driver is None
    assert about.attempts == [Start(started="", host="here", device="a CPU")]


def test_what_a_newer_version_says_of_a_run_survives_a_copy(tmp_path):
    newer = provenance("a CPU") | {"temperature": {"celsius": 41}}
    schema.write(tmp_path / "copy.json", schema.read(Provenance, lines(tmp_path / "provenance.json", newer)))
    assert json.loads((tmp_path / "copy.json").read_text()) == newer


@pytest.mark.parametrize(
    "change",
    [
        {"top1": math.nan},
        {"top1": 100.1},
        {"top1": "50"},
        {"seconds": -1.0},
        {"seconds": math.inf},
        {"lr": -0.1},
        {"evaluation_seconds": math.nan},
        {"losses": {"ce": math.nan}},
        {"gradients": {"task": 1.0, "bkd": 1.0, "cosine": 1.5}},
        {"epoch": 1.5},
    ],
)
def test_an_impossible_epoch_is_refused_with_its_line(tmp_path, change):
    path = lines(tmp_path / "history.jsonl", OLD_EPOCH, OLD_EPOCH | change)
    with pytest.raises(UserError, match=rf"history\.jsonl, line 2: '{next(iter(change))}.*remove that folder"):
        schema.read_lines(Epoch, path)


@pytest.mark.parametrize("change", [{"top1": math.nan}, {"losses": {"ce": math.inf}}, {"seconds": -1.0}])
def test_an_impossible_epoch_cannot_be_made(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Epoch(**OLD_EPOCH | change)


def test_the_best_epoch_is_the_first_of_equals_and_may_be_the_evaluation_after_all():
    epochs = [
        Epoch(**OLD_EPOCH | {"epoch": number, "top1": top1}) for number, top1 in ((1, 40.0), (2, 60.0), (3, 60.0))
    ]
    assert Top1.of(60.0, epochs) == Top1(last=60.0, best=60.0, best_epoch=2)
    assert Top1.of(70.0, epochs) == Top1(last=70.0, best=70.0, best_epoch=3)
    assert Top1.of(50.0, []) == Top1(last=50.0, best=50.0, best_epoch=0)


def test_an_attempt_says_where_it_started_as_its_provenance_does():
    assert Start.model_fields.keys() < Attempt.model_fields.keys()
