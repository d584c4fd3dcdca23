"""The vocabulary of the project: what one run is, down to the last number.

A `RunSpec` is frozen, validated and canonical; the SHA-256 of its canonical JSON is its identity. Nothing here
imports torch: the workflow reads these models at parse time. Symbols follow the paper: T time-steps, tau
temperature, lambda blur ratio, w_LD and w_BKD loss weights.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Raise a number by hand when the meaning of that part changes: runs made before it then count as other runs.
VERSIONS = {"data": 1, "model": 1, "method": 1, "trainer": 1}


class Strict(BaseModel):
    """Base of every spec: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Digits(Strict):
    """How embedded images are drawn from scikit-learn's handwritten digits (real scans, 8 x 8, 1,797 of them)."""

    digits: Literal[1, 2] = 1
    train: int = Field(gt=0)
    test: int = Field(gt=0)
    clutter: int = Field(default=0, ge=0, description="distracting fragments of other digits in each image")
    noise: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian noise, intensities in [0, 1]")
    shift: int = Field(default=0, ge=0, description="largest displacement of a digit, pixels")


class Dataset(Strict):
    """Labelled images of one size, three channels. `label`, `page` and `folder` do not enter the identity."""

    name: str
    format: Literal["cifar-binary", "image-folder", "digits"]
    classes: int = Field(gt=1)
    image_size: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    digits: Digits | None = None
    label: str = Field(default="", exclude=True)
    page: str = Field(default="", exclude=True, description="where the data may be had")
    folder: str = Field(default="", exclude=True, description="expected folder below the data root")

    @property
    def embedded(self) -> bool:
        """Whether the images come with a dependency instead of from the user."""
        return self.format == "digits"

    @model_validator(mode="after")
    def _digits_belong(self) -> Dataset:
        if self.embedded != (self.digits is not None):
            raise ValueError("the key 'digits' belongs to format 'digits', and only there")
        return self


class Neuron(Strict):
    """A spiking neuron: charge, fire (H >= v_threshold), reset.

    `if`: H = V + x. `lif`: H = V + (x - (V - v_reset)) / tau with `decay_input`, else H = V - (V - v_reset) / tau + x.
    `v_reset` None is a soft reset (V = H - v_threshold S). `v_init` is the membrane before the first step.
    """

    kind: Literal["if", "lif"]
    tau: float = Field(default=2.0, ge=1)
    decay_input: bool = True
    v_threshold: float = Field(default=1.0, gt=0)
    v_reset: float | None = 0.0
    v_init: float = 0.0
    detach_reset: bool = True
    surrogate: Literal["atan", "sigmoid", "triangle", "rectangle"]
    alpha: float = Field(gt=0, description="steepness (atan, sigmoid) or width (rectangle) of the surrogate")


class Quantised(Strict):
    """QCFS activation: clip(floor(x L / theta + 1/2) / L, 0, 1) theta, theta learned per layer."""

    levels: int = Field(gt=0, description="L")
    init: float = Field(default=8.0, gt=0, description="theta before training")


class ResNet(Strict):
    """A residual network for 2-D images, as ANN, as spiking network, or as conversion source or target."""

    family: Literal["resnet"] = "resnet"
    name: str
    form: Literal["ann", "spiking", "sew", "qcfs", "qcfs-snn"]
    stem: Literal["imagenet", "cifar"]
    stem_width: int = Field(gt=0)
    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: Literal["conv", "pad"] = "conv"
    hidden: int | None = Field(default=None, gt=0, description="width of a fully connected layer before the last")
    norm: Literal["bn", "tdbn"] = "bn"
    neuron: Neuron | None = None
    quantised: Quantised | None = None
    timesteps: int = Field(default=1, gt=0, description="T")

    @property
    def spiking(self) -> bool:
        """Whether the network emits spikes over time-steps."""
        return self.form in ("spiking", "sew", "qcfs-snn")

    def geometry(self) -> dict[str, Any]:
        """What a conversion must leave as it is: everything but the form and the time-steps."""
        return self.model_dump(exclude={"form", "timesteps"})

    @model_validator(mode="after")
    def _consistent(self) -> ResNet:
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"'blocks' names {len(self.blocks)} stages, 'widths' {len(self.widths)}")
        if (self.form in ("spiking", "sew")) != (self.neuron is not None):
            raise ValueError(f"form '{self.form}' {'takes no' if self.neuron else 'needs a'} 'neuron'")
        if self.form.startswith("qcfs") != (self.quantised is not None):
            raise ValueError(f"form '{self.form}' {'takes no' if self.quantised else 'needs'} 'quantised'")
        if not self.spiking and self.timesteps != 1:
            raise ValueError(f"form '{self.form}' has no time: 'timesteps' must be 1, found {self.timesteps}")
        return self


Network = ResNet  # a second family makes this a union discriminated by `family`


class CrossEntropy(Strict):
    """Cross-entropy of the time-averaged logits (Eq. 6, first term)."""

    method: Literal["ce"] = "ce"


class TET(Strict):
    """Temporal efficient training: (1 - mse_weight) mean_t CE(y_t) + mse_weight mean_t MSE(y_t, target)."""

    method: Literal["tet"] = "tet"
    mse_weight: float = Field(default=0.05, ge=0, le=1)
    target: float = 1.0


class LD(Strict):
    """Logits distillation, Eqs. 7-8; `focal` adds the weighting that the published code applies."""

    method: Literal["ld"] = "ld"
    weight: float = Field(default=1.0, ge=0, description="w_LD")
    tau: float = Field(default=2.0, gt=0, description="temperature")
    focal: bool = False


class BKD(Strict):
    """Blurred knowledge distillation, Eqs. 2-5."""

    method: Literal["bkd"] = "bkd"
    weight: float = Field(ge=0, description="w_BKD")
    blur_ratio: float = Field(default=0.15, ge=0, lt=1, description="lambda")
    mask: Literal["channel", "pixel"] = "channel"
    restoration: bool = True
    reduction: Literal["batch-mean", "sum"] = "batch-mean"


class KDSNN(Strict):
    """KDSNN: logits and features of every stage; `published` is the bare squared error of the authors' upload."""

    method: Literal["kdsnn"] = "kdsnn"
    weight: float = Field(ge=0, description="of the feature part")
    logits_weight: float = Field(default=1.0, ge=0)
    tau: float = Field(default=2.0, gt=0)
    published: bool = False


class LaSNN(Strict):
    """LaSNN: spatial attention maps of every stage; `published` is the bare squared error of the authors' upload."""

    method: Literal["lasnn"] = "lasnn"
    weight: float = Field(ge=0)
    published: bool = False


TaskLoss = Annotated[CrossEntropy | TET, Field(discriminator="method")]
Term = Annotated[LD | BKD | KDSNN | LaSNN, Field(discriminator="method")]


class Augment(Strict):
    """Training-time augmentation, applied in the order of the fields; validation never uses it."""

    crop_padding: int = Field(default=0, ge=0, description="random crop after zero padding by so many pixels")
    resized_crop: bool = Field(default=False, description="RandomResizedCrop, scale 0.08-1, ratio 3/4-4/3")
    flip: bool = False


class Recipe(Strict):
    """How a network is trained. The learning rate is stepped per epoch: linear warm-up, then cosine to `min_lr`."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)
    precision: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="autocast type where there is a GPU")
    augment: Augment = Augment()
    source: str = Field(default="", exclude=True, description="where the values come from")


class Pretrained(Strict):
    """Published weights by name; the identity holds their checksum, never where they lie."""

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{8,64}$", description="first digits of the file's SHA-256, at least 8")

    @property
    def stem(self) -> str:
        """The name as part of a file name."""
        return self.name.replace("/", "-")


class RunSpec(Strict):
    """One training, conversion or evaluation.

    `source` gives the weights to begin with: another run, or published weights. Without a `recipe` the run only
    evaluates them, which is also how a conversion runs (a `qcfs-snn` network whose source is a `qcfs` network).
    """

    dataset: Dataset
    network: Network
    loss: TaskLoss = CrossEntropy()
    distill: tuple[Term, ...] = ()
    teacher: RunSpec | None = None
    source: RunSpec | Pretrained | None = None
    recipe: Recipe | None
    seed: int = Field(ge=0)
    versions: dict[str, int] = Field(default_factory=lambda: dict(VERSIONS))

    @field_validator("distill", mode="before")
    @classmethod
    def _named_terms(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple({"method": name, **(options or {})} for name, options in sorted(value.items()))
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        if self.recipe is None and self.source is None:
            raise ValueError("a run without 'recipe' needs a 'source' whose weights it evaluates")
        if self.recipe and self.source:
            raise ValueError("'recipe' and 'source' exclude each other: a run trains from its own initialisation")
        if isinstance(self.source, RunSpec) and self.source.network.geometry() != self.network.geometry():
            raise ValueError(f"'source' has another network than '{self.network.name}' as converted here")
        if bool(self.distill) != (self.teacher is not None):
            raise ValueError("'distill' and 'teacher' belong together")
        if self.teacher and self.teacher.dataset != self.dataset:
            raise ValueError(f"teacher sees '{self.teacher.dataset.name}', student '{self.dataset.name}'")
        return self

    def canonical(self) -> str:
        """Return the canonical JSON: defaults filled in, keys sorted, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def name(self) -> str:
        """Readable prefix and ten digits of the digest, such as `cifar10-sew-resnet20-bkdsnn-t4-s0-3fa9c2d1b7`."""
        network = f"{self.network.form}-{self.network.name}"
        parts = (self.dataset.name, network, self.method, f"t{self.network.timesteps}", f"s{self.seed}")
        return "-".join((*parts, self.digest[:10]))

    @property
    def method(self) -> str:
        """What is done to the network: distillation, else task loss; `convert` or `pretrained` if not trained."""
        if self.recipe is None:
            return "pretrained" if isinstance(self.source, Pretrained) else "convert"
        terms = "-".join(term.method for term in self.distill)
        return {"bkd-ld": "bkdsnn"}.get(terms, terms) or self.loss.method

    @property
    def kind(self) -> Literal["teacher", "student", "evaluation"]:
        """An ANN that is trained, another network that is trained, or weights that are only evaluated."""
        if self.recipe is None:
            return "evaluation"
        return "teacher" if self.network.form == "ann" else "student"

    def parents(self) -> list[RunSpec]:
        """Runs that must be finished before this one."""
        return [run for run in (self.teacher, self.source) if isinstance(run, RunSpec)]

    def lineage(self) -> list[RunSpec]:
        """This run and all its ancestors, ancestors first."""
        return [run for parent in self.parents() for run in parent.lineage()] + [self]


RUN_NAME = re.compile(r"^(?P<prefix>[a-z0-9-]+)-s(?P<seed>\d+)-(?P<digest>[0-9a-f]{10})$")
