"""`activity.json` of a run: firing rates and operations, read with distrust. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError, explain

AGAIN = "remove that file and make it again with `python -m bkdsnn activity <run>`"
Kind = Literal["conv", "linear", "norm", "attention"]
Rate = Annotated[float, Field(ge=0, le=1)]


class LayerActivity(BaseModel):
    """One layer, or one of the two products of an attention, named after the order in which they are computed.

    `macs` are the multiply-accumulates of one image in one pass, borders counted like the rest; of a norm its elements.
    `passes` is how often an image passes, T or 1. `rate` is the share of its inputs that are not zero, over the test
    set (r_input of Eq. A4). `binary`: all inputs are 0 or 1; `integer`: all are integers.

    Of the first product of an attention, `rate` is that of the rarer operand; of the second, that of the operand that
    is not the first product.
    """

    name: str
    kind: Kind
    macs: int = Field(ge=0)
    passes: int = Field(gt=0)
    rate: Rate
    binary: bool
    integer: bool


class Feature(BaseModel):
    """The feature before the last layer: `mean` is r of Eq. 11 (D-168), `nonzero` the share of non-zero entries."""

    tap: str
    mean: float = Field(allow_inf_nan=False)
    nonzero: Rate
    binary: bool
    integer: bool


class AttentionRates(BaseModel):
    """Firing rates of one block of spiking attention; `attention` is that of the neurons behind q k^T v."""

    name: str
    q: Rate
    k: Rate
    v: Rate
    attention: Rate


class Activity(BaseModel):
    """What was counted while the network of a run classified the whole test set; `layers` in order of first use.

    `neurons` has the firing rate of each layer of spiking neurons, by name of the module. `mac_layers` names the layers
    that are fed with no spikes, and how often the paper's counting has each of them for one image.
    """

    run: str
    spec: str
    spiking: bool
    timesteps: int = Field(gt=0)
    mac_layers: dict[str, Annotated[int, Field(gt=0)]]
    test_images: int = Field(gt=0)
    top1: float = Field(ge=0, le=100)
    feature: Feature
    blocks: list[AttentionRates]
    neurons: dict[str, Rate]
    layers: list[LayerActivity] = Field(min_length=1)


def activity_path(run: str, results: Path) -> Path:
    """Where the analysis of a run lies, below one scale's folder."""
    return results / "analyses" / run / "activity.json"


def read_activity(spec: RunSpec, results: Path) -> Activity | None:
    """Return the analysis of a run, None if there is none; one of another run, or a damaged one, raises `UserError`."""
    path = activity_path(spec.name, results)
    if not path.is_file():
        return None
    try:
        activity = Activity.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{explain(error, Activity, str(path))}; {AGAIN}") from error
    for key, found, expected in (("run", activity.run, spec.name), ("spec", activity.spec, spec.digest)):
        if found != expected:
            raise UserError(f"{path}: '{key}' is '{found}', expected '{expected}': of another run; {AGAIN}")
    return activity
