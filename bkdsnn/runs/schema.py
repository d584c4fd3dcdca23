"""What a run leaves, as the models that both write and read it. Free of torch.

Values are checked on both sides: a number that is not finite, or out of its range, is never written and never read.
Fields that came later have defaults, so that runs of older versions can still be read.
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
Place = tuple[int, int] | None  # epoch, and steps of it that are done; None: the beginning
Percent = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]
M = TypeVar("M", bound=BaseModel)


class Record(BaseModel):
    """Base of the models: immutable, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Top1(Record):
    """Top-1 accuracies in per cent; `best` is what the best test epoch would have claimed (D-148)."""

    last: Percent
    best: Percent
    best_epoch: int = Field(ge=0)

    @classmethod
    def of(cls, last: float, history: Sequence[Epoch]) -> Top1:
        """Return them for a history and the accuracy after it; of equally good epochs the first counts."""
        ends = [*((epoch.top1, epoch.epoch) for epoch in history), (last, len(history))]
        best, best_epoch = max(ends, key=lambda end: end[0])
        return cls(last=last, best=best, best_epoch=best_epoch)


class Data(Record):
    """The data that a run saw; `digest` identifies their content."""

    name: str
    label: str
    digest: str


class Metrics(Record):
    """`metrics.json`: what tables read. `seconds` are those of all epochs with their evaluations.

    `files` has the SHA-256 of the run's other files, `parents` that of the weights of each run that this one is built
    on; runs of older versions have neither.
    """

    run: str
    spec: str
    top1: Top1
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
    """Where and from where an attempt at a run began."""

    started: str
    host: str
    device: str
    origin: Place = None


class Attempt(Record):
    """What is known of one attempt; `event` is the last that it wrote, seconds and peak memory (MiB) are as of then."""

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
    """When a run came from another machine, and out of which folder or archive."""

    when: str
    origin: str = Field(alias="from")


class Provenance(Record):
    """`provenance.json`: what was run, on what, with what: enough to judge a result whose folder was copied elsewhere.

    `commit` is that of this project's repository, with `+` if the source was changed since; None outside of it.
    `packages` are all that are installed, by name. `cuda` and `cudnn` are those that torch is made for, `driver` is
    the machine's; None where there are none. `neurons` names what computed the spiking neurons
    (`models.neurons.implementations`): gradients of each round in their own way. Fields of newer versions are kept.
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
    """Read a JSON file. Raises `UserError` if it cannot be read, or is something else."""
    return parse(model, _text(path), str(path))


def read_lines(model: type[M], path: Path) -> list[M]:
    """Read a file with a JSON record a line. Raises `UserError`, which names the line, for something else."""
    return [parse(model, line, f"{path}, line {number}") for number, line in enumerate(_text(path).splitlines(), 1)]


def parse(model: type[M], content: str, where: str) -> M:
    """Return a record from its JSON. Raises `UserError` for anything else, such as a number that is given as text."""
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{explain(error, model, where)}; {AGAIN}") from error


def write(path: Path, record: Record) -> None:
    """Write a record as indented JSON, atomically; fields that were never set are left out."""
    files.write_json(path, record.model_dump(mode="json", by_alias=True, exclude_unset=True))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from error
