"""The complete, validated, immutable description of one run; the SHA-256 of its identity is part of its name."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, computed_field, field_validator, model_validator

from bkdsnn.config.datasets import Dataset
from bkdsnn.config.identity import Part
from bkdsnn.config.losses import BKD, CrossEntropy, TaskLoss, Term
from bkdsnn.config.networks import Network
from bkdsnn.config.recipes import Recipe
from bkdsnn.core import streams

# What each version of a run does otherwise than the one before; told where results of an older version are refused.
CHANGES = {
    2: "a run that teaches draws from random streams of its own; cutouts of event clips are squares, and translations "
    "whole pixels in 31 steps",
}


class Pretrained(Part):
    """Published weights; a run's identity has their checksum (D-141), but not where they are downloaded or stored."""

    name: str = Field(description="library and weights, such as torchvision/ResNet18_Weights.IMAGENET1K_V1")
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{8,64}$",
        description="first digits of the file's SHA-256, at least 8; none where only the publisher's host states it",
    )

    @property
    def stem(self) -> str:
        """The name as part of a file name."""
        return self.name.replace("/", "-")


class RunSpec(Part):
    """One training, conversion or evaluation.

    With a `recipe` the weights of its `source` are fine-tuned; without one they are only evaluated. A conversion is an
    evaluation: of a `qcfs-snn` network whose source is a `qcfs` network. The `version` of this class covers the code
    that all runs share: random streams and evaluation.
    """

    version: ClassVar[int] = max(CHANGES)

    dataset: Dataset = Field(description="the images or recordings of training and test")
    network: Network = Field(description="the network that is trained or evaluated")
    loss: TaskLoss = Field(default=CrossEntropy(), description="loss between logits and labels")
    distill: tuple[Term, ...] = Field(default=(), description="losses between the network and its teacher")
    teacher: RunSpec | None = Field(default=None, description="run of the network that the losses in 'distill' imitate")
    source: RunSpec | Pretrained | None = Field(
        default=None, description="initial weights: those of another run, or published ones; none: random"
    )
    recipe: Recipe | None = Field(description="how the network is trained; null: only evaluated")
    role: Literal["student", "teacher"] = Field(
        default="student", description="whose random streams it draws from; a run that teaches is a teacher (D-177)"
    )
    seed: int = Field(ge=0, description="seed of all random streams")

    @field_validator("distill", mode="before")
    @classmethod
    def _named_terms(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple({"method": name, **(options or {})} for name, options in sorted(value.items()))
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _of_these_versions(cls, value: Any, validate: ModelWrapValidatorHandler[RunSpec]) -> RunSpec:
        """Refuse a description that was written for other versions of its parts."""
        stated = value.get("versions") if isinstance(value, Mapping) else None
        if isinstance(stated, Mapping) and (found := stated.get("RunSpec.version", 1)) != cls.version:
            raise ValueError(f"'versions' of the run's parts are {stated}: {_outdated(found, cls.version)}")
        spec = validate({key: value[key] for key in value if key != "versions"} if stated is not None else value)
        if stated is not None and stated != spec.versions:
            raise ValueError(f"'versions' of the run's parts are {stated}, but in this code {spec.versions}")
        return spec

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        if self.recipe is None and self.source is None:
            raise ValueError("a run without 'recipe' needs a 'source' whose weights it evaluates; give one of them")
        self._check_input()
        self._check_source()
        if bool(self.distill) != (self.teacher is not None):
            given, missing = ("distill", "teacher") if self.distill else ("teacher", "distill")
            raise ValueError(f"'{given}' is given, but no '{missing}'; expected both or neither")
        if any(term.method == "hard-ld" for term in self.distill) != self._distilled_head:
            raise ValueError("'hard-ld' needs a network with 'distilled_head', and such a network needs 'hard-ld'")
        if self.teacher:
            self._check_teacher(self.teacher)
        summed = any(isinstance(term, BKD) and term.reduction == "sum" for term in self.distill)
        if summed and self.recipe and self.recipe.processes > 1:
            raise ValueError("'reduction: sum' of 'bkd' needs the whole batch in one process; 'processes' must be 1")
        return self

    def _check_teacher(self, teacher: RunSpec) -> None:
        if teacher.dataset != self.dataset:
            raise ValueError(f"the teacher's dataset is '{teacher.dataset.name}', expected '{self.dataset.name}'")
        if any(run.recipe and run.role == "student" for run in teacher.lineage()):
            raise ValueError("'role' of a run that teaches, or that a teacher builds on, must be 'teacher'")
        vector = any(isinstance(term, BKD) and term.target == "vector" for term in self.distill)
        if vector and teacher.network.flattens:
            raise ValueError(f"'bkd' with 'target: vector' needs a pooled vector; '{teacher.network.name}' has none")

    @property
    def root(self) -> int:
        """The number that all random streams of this run are derived from, in the place of its seed."""
        if self.role == "student":
            return self.seed
        return streams.key(self.seed, "teacher", *([self.teacher.root] if self.teacher else []))

    @property
    def _distilled_head(self) -> bool:
        return getattr(self.network, "distilled_head", False)

    def _check_input(self) -> None:
        kind = "events" if self.dataset.events else "images"
        if kind not in self.network.takes:
            raise ValueError(
                f"'{self.network.name}' takes {' or '.join(sorted(self.network.takes))}, "
                f"but '{self.dataset.name}' has {kind}"
            )
        self.network.check_image(self.dataset.image_size)

    def _check_source(self) -> None:
        if not isinstance(self.source, RunSpec):
            return
        theirs, ours = self.source.network.geometry(), self.network.geometry()
        if differing := sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key)):
            fields = ", ".join(f"'{key}'" for key in differing)
            raise ValueError(f"the network of 'source' differs from '{self.network.name}' in {fields}; make them equal")
        if self.recipe and self.source.network.form != self.network.form:
            raise ValueError(f"'source' has form '{self.source.network.form}', expected '{self.network.form}'")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def versions(self) -> dict[str, int]:
        """Versions above 1 of the parts that this run and its ancestors consist of."""
        return self.raised()

    def canonical(self) -> str:
        """Return the whole description as JSON: defaults filled in, keys sorted, no spaces."""
        return _json(self.model_dump(mode="json"))

    @functools.cached_property  # the workflow asks for it thousands of times
    def digest(self) -> str:
        """SHA-256 of the identity as JSON; new fields in the code do not change it, see `config.identity`."""
        return hashlib.sha256(_json(self.identity()).encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> RunSpec:
        """Return a copy with the changes in `update`, which are not validated; its digest is its own."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("digest", None)
        return copied

    @property
    def name(self) -> str:
        """Readable prefix and ten hexadecimal digits, such as `cifar10-sew-resnet20-bkdsnn-t4-s0-3fa9c2d1b7`."""
        parts = (self.dataset.name, self.network.slug, self.method, f"t{self.network.timesteps}", f"s{self.seed}")
        return "-".join((*parts, self.digest[:10]))

    @property
    def method(self) -> str:
        """Method in the run's name: distillation terms, else task loss; `convert` or `pretrained` without training."""
        if self.recipe is None:
            return "pretrained" if isinstance(self.source, Pretrained) else "convert"
        terms = "-".join(term.method for term in self.distill)
        return {"bkd-ld": "bkdsnn"}.get(terms, terms) or self.loss.method

    @property
    def kind(self) -> Literal["teacher", "student", "evaluation"]:
        """The role of a run that is trained; `evaluation` if nothing is."""
        return self.role if self.recipe else "evaluation"

    def parents(self) -> list[RunSpec]:
        """Runs that must be finished before this one."""
        return [run for run in (self.teacher, self.source) if isinstance(run, RunSpec)]

    def lineage(self) -> list[RunSpec]:
        """This run and all its ancestors, ancestors first."""
        return [run for parent in self.parents() for run in parent.lineage()] + [self]

    def on(self, dataset: Dataset) -> RunSpec:
        """Return this run and its ancestors with another dataset; whether that fits the network is not checked."""
        related = {"teacher": self.teacher, "source": self.source}
        moved = {role: run.on(dataset) for role, run in related.items() if isinstance(run, RunSpec)}
        return self.model_copy(update={"dataset": dataset, **moved})


def _outdated(found: Any, expected: int) -> str:
    """Say that a run is of another version, and for an older one what has changed since."""
    since = "; ".join(
        f"version {one}: {said}" for one, said in CHANGES.items() if isinstance(found, int) and one > found
    )
    return f"it is of version {found}, expected {expected}{f' ({since})' if since else ''}"


RUN_NAME = re.compile(r"^(?P<prefix>[a-z0-9-]+)-s(?P<seed>\d+)-(?P<digest>[0-9a-f]{10})$")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
