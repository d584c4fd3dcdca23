"""The user's settings in `config/config.yaml`. All other files in `config/` describe the paper and the scales."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from bkdsnn.config import Strict, catalogue, own, paper, plans
from bkdsnn.core.errors import UserError, explain, unknown

DATA_ROOT, WEIGHTS_ROOT, RECOMPUTE = "BKDSNN_DATA_ROOT", "BKDSNN_WEIGHTS_ROOT", "BKDSNN_RECOMPUTE"
GPU_SHARE = "BKDSNN_GPU_SHARE"


class Root(Strict):
    """A folder that the user provides."""

    root: Path | None = Field(default=None, description="path of the folder; null: see config/config.yaml")


class Energy(Strict):
    """Energy of one operation, in pJ (45 nm: Horowitz, ISSCC 2014; Eq. A5)."""

    mac_pj: float = Field(default=4.6, gt=0, description="multiply-accumulate operation, pJ")
    ac_pj: float = Field(default=0.9, gt=0, description="accumulate operation, pJ")


class Caps(Strict):
    """Limits on the estimated cost of one call of the workflow, which does not start if the estimate is higher."""

    cap_hours: float | None = Field(default=None, gt=0, description="hours of the device for all runs that are to do")
    cap_disk_gb: float | None = Field(default=None, gt=0, description="disk space at the peak, in units of 10^9 bytes")


class Settings(Strict):
    """The configuration of the workflow, validated before the DAG is built."""

    scale: str = Field(description="size of data, networks and trainings: a file in config/scales/")
    seeds: tuple[int, ...] | None = Field(default=None, description="replaces the scale's seeds")
    datasets: dict[str, str] = Field(default={}, description="by dataset of the paper: another in place of the scale's")
    neurons: plans.Preset = Field(
        default="reference", description="neurons of each family's code, or (paper-text) IF with a sigmoid everywhere"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: a GPU where there is one, else the CPU"
    )
    gpu_share: int = Field(default=1, gt=0, description="number of this project's processes that share a GPU")
    recompute: bool = Field(default=False, description="whether training saves memory and takes more time")
    slice_minutes: int = Field(default=1440, gt=0, description="minutes after which a training is saved and ended")
    own: Path | None = Field(default=None, description="folder with work of the user's own; see docs/tutorial.md")
    data: Root = Field(default=Root(), description="folder with the user's datasets; embedded data need none")
    weights: Root = Field(default=Root(), description="folder with published weights; null: they are downloaded")
    energy: Energy = Field(default=Energy(), description="energy of one operation; the paper's values by default")
    budget: Caps = Field(default=Caps(), description="limits on the estimated cost of one call")

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds is not None and (not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds)):
            raise ValueError("expected at least one seed, all different and none negative, such as [0, 1, 2]")
        return seeds

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Settings:
        """Validate the workflow's configuration; an unknown key or value raises `UserError`."""
        try:
            settings = cls.model_validate(dict(content))
        except ValidationError as error:
            raise explain(error, cls, "config/config.yaml or --config") from error
        if settings.scale not in catalogue.scale_names():
            raise unknown("scale", settings.scale, catalogue.scale_names(), "config/config.yaml or --config")
        return settings

    def expansion(self) -> paper.Expansion:
        """Return the expansion of tables and figures into runs for these settings."""
        return paper.Expansion(self.scale, neurons=self.neurons, copies=self.datasets)

    @property
    def variant(self) -> str:
        """Neurons and datasets as options of `python -m bkdsnn`; empty for the defaults."""
        data = [f"{old}={new}" for old, new in self.datasets.items()]
        neurons = [] if self.neurons == "reference" else ["--neurons", self.neurons]
        return " ".join([*neurons, *(["--datasets", *data] if data else [])])

    def export(self) -> None:
        """Pass device and folders to the jobs as environment variables, so that changing them makes no run stale.

        Snakemake would rerun finished jobs if their shell command or parameters changed.
        """
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        os.environ["BKDSNN_DEVICE"] = self.device
        os.environ[RECOMPUTE] = str(self.recompute).lower()
        os.environ[GPU_SHARE] = str(self.gpu_share)
        folders = ((own.OWN, self.own), (DATA_ROOT, self.data.root), (WEIGHTS_ROOT, self.weights.root))
        for variable, folder in folders:
            if folder is not None:
                os.environ[variable] = str(folder)


def recomputes(given: bool) -> bool:
    """Whether training recomputes activations: the option or BKDSNN_RECOMPUTE; an invalid value raises `UserError`."""
    found = os.environ.get(RECOMPUTE, "false")
    if found not in ("true", "false"):
        raise UserError(f"{RECOMPUTE} is '{found}', expected true or false; unset it and give --recompute instead")
    return given or found == "true"


def gpu_share() -> int:
    """How many processes may share a GPU: BKDSNN_GPU_SHARE, by default 1; an invalid value raises `UserError`."""
    found = os.environ.get(GPU_SHARE, "1")
    if not (found.isdecimal() and int(found)):
        raise UserError(f"{GPU_SHARE} is '{found}', expected how many processes may share a GPU, 1 or more; unset it")
    return int(found)


def data_root(given: Path | None) -> Path | None:
    """The folder with the user's data: the option, else BKDSNN_DATA_ROOT, else None; a missing one: `UserError`."""
    return _folder(given, DATA_ROOT, "data.root")


def weights_root(given: Path | None) -> Path | None:
    """The folder with published weights: the option, else BKDSNN_WEIGHTS_ROOT, else None (they are downloaded)."""
    return _folder(given, WEIGHTS_ROOT, "weights.root")


def _folder(given: Path | None, variable: str, key: str) -> Path | None:
    chosen = given or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if chosen is not None and not chosen.is_dir():
        raise UserError(f"'{key}' (or {variable}): no such folder: {chosen}; create it or correct the path")
    return chosen
