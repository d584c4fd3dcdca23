"""`activity.json` of a run: firing rates and operations, validated when read. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bkdsnn.config import RunSpec
from bkdsnn.core.errors import UserError, parsed

AGAIN = "remove that file and make it again with `python -m bkdsnn activity <run>`"
Kind = Literal["conv", "linear", "norm", "attention"]
Rate = Annotated[float, Field(ge=0, le=1)]


class LayerActivity(BaseModel):
    """One layer, or one of the two products of an attention, named after the order in which they are computed.

    `macs` are the multiply-accumulates for one image in one pass, padding included; for a norm its number of elements.
    `passes` is how often the layer is applied per image, T or 1. `rate` is the share of non-zero inputs over the test
    set (r_input of Eq. A4). `binary`: all inputs are 0 or 1; `integer`: all are integers.

    For the first product of an attention, `rate` is that of the sparser operand; for the second, that of the operand
    that is not the result of the first.
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
    """Firing rates in one block of spiking attention; `attention` is the rate of the neurons that follow q k^T v."""

    name: str
    q: Rate
    k: Rate
    v: Rate
    attention: Rate


class Activity(BaseModel):
    """Counts over the whole test set, classified by the network of a run; `layers` are in order of first use.

    `neurons` has the firing rate of each layer of spiking neurons by module name. `mac_layers` names the layers whose
    inputs are not spikes, and how often the paper's counting applies each of them per image.
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
    """Path of a run's analysis; `results` is the folder of its scale."""
    return results / "analyses" / run / "activity.json"


def read_activity(spec: RunSpec, results: Path) -> Activity | None:
    """Return the analysis of a run, or None if it is missing; `UserError` if it is damaged or of another run."""
    path = activity_path(spec.name, results)
    if not path.is_file():
        return None
    activity = parsed(Activity, path.read_bytes(), str(path), f"; {AGAIN}")
    for key, found, expected in (("run", activity.run, spec.name), ("spec", activity.spec, spec.digest)):
        if found != expected:
            raise UserError(f"{path}: '{key}' is '{found}', expected '{expected}': of another run; {AGAIN}")
    return activity
