"""The JSON files of a run as pydantic models, which both write and read them. Free of torch.

Values are checked when written and when read: all numbers must be finite and within their range. Fields that were added
later have defaults, so that runs of older versions can still be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bkdsnn.core import files
from bkdsnn.core.errors import UserError, explain

AGAIN = "remove that folder and make the run again"
Event = Literal["began", "saved", "finished", "interrupted", "failed"]
Place = tuple[int, int] | None  # epoch, and number of its steps that are done; None: the beginning
Percent = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]
M = TypeVar("M", bound=BaseModel)


class Record(BaseModel):
    """Base of the models: immutable, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Top1(Record):
    """Top-1 accuracies in per cent: after the `last` epoch, and of the epoch with the `best` test accuracy (D-148)."""

    last: Percent
    best: Percent
    best_epoch: int = Field(ge=0)

    @classmethod
    def of(cls, last: float, history: Sequence[Epoch]) -> Top1:
        """Return both for a final accuracy and a history; of equally good epochs the first counts as the best."""
        ends = [*((epoch.top1, epoch.epoch) for epoch in history), (last, len(history))]
        best, best_epoch = max(ends, key=lambda end: end[0])
        return cls(last=last, best=best, best_epoch=best_epoch)


class Data(Record):
    """The dataset that a run used; `digest` identifies its content."""

    name: str
    label: str
    digest: str


class Metrics(Record):
    """`metrics.json`, which tables read. `seconds` is the time of all epochs including their evaluations.

    `top1_by_timestep` has the accuracy of the mean of the logits over the first t time-steps, for t = 1 ... T; the last
    is `top1.last`. `files` has the SHA-256 of the run's other files, `parents` that of the weights of each parent run.
    Runs of older versions have none of the three.
    """

    run: str
    spec: str
    top1: Top1
    top1_by_timestep: tuple[Percent, ...] = ()
    parameters: int = Field(gt=0)
    epochs: int = Field(ge=0)
    test_images: int = Field(gt=0)
    dataset: Data
    seconds: Amount
    files: dict[str, str] = {}
    parents: dict[str, str] = {}


class Gradients(Record):
    """Root mean squares of dL_task/dF and of delta = dL_BKD/dF (Eq. A3), and the cosine of the angle between them."""

    task: Amount
    bkd: Amount
    cosine: float = Field(ge=-1, le=1)


class Epoch(Record):
    """A line of `history.jsonl`: one epoch, counted from 1; `lr` is its learning rate, `losses` are means over steps.

    `seconds` include the `evaluation_seconds`; `peak_memory_mb` is in MiB; `gradients` are of the epoch's first step.
    """

    epoch: int
    lr: Amount | None = None
    losses: dict[str, float] = {}
    gradients: Gradients | None = None
    top1: Percent
    images_per_second: Amount | None = None
    seconds: Amount
    evaluation_seconds: Amount | None = None
    peak_memory_mb: Amount | None = None


class Start(Record):
    """The beginning of an attempt at a run: when, on which device, and from which epoch and step."""

    started: str
    host: str
    device: str
    origin: Place = None


class Attempt(Record):
    """All that is known of one attempt; `event` is its latest, seconds and peak memory (MiB) are up to that event."""

    attempt: str
    event: Event
    run: str
    spec: str
    kind: str
    dataset: str
    network: str
    started: str
    host: str
    pid: int
    device: str
    origin: Place
    reached: Place
    seconds: Amount
    peak_memory_mb: Amount
    message: str = ""


class Import(Record):
    """When a run was imported from another machine, and from which folder or archive."""

    when: str
    origin: str = Field(alias="from")


class Provenance(Record):
    """`provenance.json`: code, environment and machine, enough to judge a result whose folder was copied elsewhere.

    `commit` is that of this project's repository, with `+` if the source was changed since; None outside of it.
    `packages` has the versions of all installed packages. `cuda` and `cudnn` are the versions that torch is built for,
    `driver` is the machine's; None without a GPU. `neurons` names the implementations that computed the spiking neurons
    (`models.neurons.implementations`), because their gradients differ in rounding. Unknown fields, written by newer
    versions, are kept.
    """

    model_config = ConfigDict(extra="allow")

    bkdsnn: str
    commit: str | None
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    cpu: str | None = None
    cpu_flags: str | None = None
    threads: int | None = Field(default=None, gt=0)
    interop_threads: int | None = Field(default=None, gt=0)
    cuda: str | None = None
    cudnn: int | None = None
    driver: str | None = None
    neurons: list[str] = []
    data_digest: str
    attempts: list[Start] = Field(min_length=1)
    seconds: Amount
    peak_memory_mb: Amount | None = None
    imported: list[Import] = []


class Failure(Record):
    """`failure.json`: the error that ended the last attempt at a run."""

    run: str
    message: str


def read(model: type[M], path: Path) -> M:
    """Read a JSON file. Raises `UserError` if it cannot be read, or does not fit the model."""
    return parse(model, _text(path), str(path))


def read_lines(model: type[M], path: Path) -> list[M]:
    """Read a file with one JSON record per line. Raises `UserError` that names the first line that does not fit."""
    return [parse(model, line, f"{path}, line {number}") for number, line in enumerate(_text(path).splitlines(), 1)]


def parse(model: type[M], content: str, where: str) -> M:
    """Return a record from its JSON. Raises `UserError` if it does not fit, such as for a number written as text."""
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{explain(error, model, where)}; {AGAIN}") from error


def write(path: Path, record: Record) -> None:
    """Write a record as indented JSON, atomically, without the fields that were never set."""
    files.write_json(path, record.model_dump(mode="json", by_alias=True, exclude_unset=True))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from error
