"""The networks: geometry, form, neurons and time-steps of each family.

Every family has `form`, `spiking`, `timesteps`, `view`, `slug` (its part of a run's name), `geometry()` (what a
conversion or fine-tuning must leave as it is) and `check_image(size)`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from bkdsnn.config import own
from bkdsnn.config.datasets import Interpolation, View
from bkdsnn.config.strict import Strict

Count = Annotated[int, Field(gt=0)]
AnyCount = Annotated[int, Field(ge=0)]


class Neuron(Strict):
    """A spiking neuron: charge, fire (H >= v_threshold), reset.

    `if`: H = V + x. `lif`: H = V + (x - (V - v_reset)) / tau with `decay_input`, else H = V - (V - v_reset) / tau + x.
    `plif` is `lif` whose 1 / tau is learned, one number for all neurons of a layer; `tau` is where it begins.
    `v_reset` None is a soft reset (V = H - v_threshold S). `v_init` is the membrane before the first step.
    """

    kind: Literal["if", "lif", "plif"]
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


class Architecture(Strict):
    """What all families share; `takes` are the kinds of data that a family can be shown."""

    takes: ClassVar[frozenset[str]] = frozenset({"images"})
    name: str
    timesteps: int = Field(default=1, gt=0, description="T")
    view: View = Field(default=View(), description="of test images that come as files")

    def geometry(self) -> dict[str, Any]:
        """Return everything but form and time-steps."""
        return self.model_dump(exclude={"form", "timesteps"})

    def check_image(self, size: int) -> None:
        """Raise ValueError if the network cannot take square images of that size; most can take any."""

    def _check_form(self, form: str, needs_neuron: bool, neuron: Neuron | None) -> None:
        if needs_neuron != (neuron is not None):
            raise ValueError(f"form '{form}' {'takes no' if neuron else 'needs a'} 'neuron'")

    def _check_time(self, form: str, spiking: bool) -> None:
        if not spiking and self.timesteps != 1:
            raise ValueError(f"form '{form}' has no time: 'timesteps' must be 1, found {self.timesteps}")


class ResNet(Architecture):
    """A residual network for 2-D images, as ANN, as spiking network, or as conversion source or target."""

    family: Literal["resnet"] = "resnet"
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

    @property
    def spiking(self) -> bool:
        """Whether the network emits spikes over time-steps."""
        return self.form in ("spiking", "sew", "qcfs-snn")

    @property
    def slug(self) -> str:
        """Form and name."""
        return f"{self.form}-{self.name}"

    @model_validator(mode="after")
    def _consistent(self) -> ResNet:
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"'blocks' names {len(self.blocks)} stages, 'widths' {len(self.widths)}")
        if self.form.startswith("qcfs") != (self.quantised is not None):
            raise ValueError(f"form '{self.form}' {'takes no' if self.quantised else 'needs'} 'quantised'")
        self._check_form(self.form, self.form in ("spiking", "sew"), self.neuron)
        self._check_time(self.form, self.spiking)
        return self


class SpikingTransformer(Architecture):
    """What Spikformer and Spikingformer share: a convolutional tokenizer, blocks of attention and MLP, a linear head.

    Form `ann` is the twin without spikes: ReLU for every neuron and softmax attention.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"images", "events"})
    form: Literal["ann", "spiking"]
    dim: int = Field(gt=0, description="D, width of a token; the tokenizer widens by D/8, D/4, D/2, D")
    depth: int = Field(gt=0, description="number of blocks")
    heads: int = Field(gt=0)
    mlp_ratio: int = Field(default=4, gt=0, description="hidden width of the MLP over D")
    pools: tuple[Literal[1, 2, 3, 4], ...] = Field(description="convolutions of the tokenizer that halve the map")
    cml: bool = Field(default=False, description="pool before the neuron fires (Zhou et al., 2023) instead of after")
    attention_threshold: float = Field(default=0.5, gt=0, description="v_threshold of the neurons after attention")
    attention_scale: float = Field(default=0.125, gt=0)
    neuron: Neuron | None = None

    @property
    def spiking(self) -> bool:
        """Whether the network emits spikes over time-steps."""
        return self.form == "spiking"

    def check_image(self, size: int) -> None:
        """Raise ValueError if the pools of the tokenizer do not divide the image evenly."""
        step = 2 ** len(self.pools)
        if size % step:
            raise ValueError(
                f"'{self.name}': the tokenizer halves the image {len(self.pools)} times ('pools'); 'image_size' must "
                f"be a multiple of {step}, found {size}"
            )

    @model_validator(mode="after")
    def _consistent(self) -> SpikingTransformer:
        if self.dim % 8:
            raise ValueError(f"'dim' must be a multiple of 8 (the tokenizer begins with D/8), found {self.dim}")
        _check_heads(self.heads, "dim", self.dim)
        if list(self.pools) != sorted(set(self.pools)):
            raise ValueError(f"'pools' must rise without repeats, found {list(self.pools)}")
        self._check_form(self.form, self.spiking, self.neuron)
        self._check_time(self.form, self.spiking)
        return self

    def _slug(self, family: str) -> str:
        parts = (family, "ann" if self.form == "ann" else "", "cml" if self.cml else "", _size(self.name))
        return "-".join(filter(None, parts))


class Spikformer(SpikingTransformer):
    """Spikformer (Zhou et al., ICLR 2023): residual sums of spikes, relative position by convolution."""

    family: Literal["spikformer"] = "spikformer"

    @property
    def slug(self) -> str:
        """Family, form and size."""
        return self._slug(self.family)


class Spikingformer(SpikingTransformer):
    """Spikingformer (Zhou et al., 2023): neurons before the convolutions, residual sums of currents."""

    family: Literal["spikingformer"] = "spikingformer"

    @property
    def slug(self) -> str:
        """Family, form and size."""
        return self._slug(self.family)


class MetaSpikeformer(Architecture):
    """Meta-SpikeFormer (Yao et al., ICLR 2024): two convolutional stages, two of spike-driven attention."""

    family: Literal["meta-spikeformer"] = "meta-spikeformer"
    form: Literal["spiking"] = "spiking"
    dims: tuple[int, int, int, int] = Field(description="widths of the stages at 1/4, 1/8, 1/16 and 1/16")
    conv_blocks: tuple[AnyCount, AnyCount, AnyCount] = Field(default=(1, 1, 2), description="at 1/2, 1/4 and 1/8")
    attention_blocks: tuple[Count, Count] = Field(default=(6, 2), description="of the last two stages")
    heads: int = Field(default=8, gt=0)
    mlp_ratio: int = Field(default=4, gt=0)
    distilled_head: bool = Field(default=False, description="a second head that imitates a teacher's decisions")
    attention_threshold: float = Field(default=0.5, gt=0)
    attention_scale: float = Field(default=0.125, gt=0)
    neuron: Neuron

    @property
    def spiking(self) -> bool:
        """True: there is no other form."""
        return True

    @property
    def slug(self) -> str:
        """Family and size."""
        return f"{self.family}-{_size(self.name)}"

    def check_image(self, size: int) -> None:
        """Raise ValueError if the four strides of 2 do not divide the image evenly."""
        if size % 16:
            raise ValueError(f"'{self.name}': 'image_size' must be a multiple of 16, found {size}")

    @model_validator(mode="after")
    def _consistent(self) -> MetaSpikeformer:
        if self.dims[0] % 2:
            raise ValueError(f"'dims' must begin with an even width (the stem has half of it), found {self.dims[0]}")
        for width in self.dims[2:]:
            _check_heads(self.heads, "dims", width)
        return self


class Wide7B(Architecture):
    """Wide-7B-Net (Fang et al., NeurIPS 2021): units of one SEW block and a max pooling that halves the map.

    A 1x1 convolution stands first, and wherever the width changes. What is left of the map after the last pooling is
    flattened.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"events"})
    family: Literal["wide-7b"] = "wide-7b"
    form: Literal["sew"] = "sew"
    widths: tuple[Count, ...] = Field(description="of the units, in order")
    neuron: Neuron

    @property
    def spiking(self) -> bool:
        """True: there is no other form."""
        return True

    @property
    def slug(self) -> str:
        """The name, which says it all."""
        return self.name

    def check_image(self, size: int) -> None:
        """Raise ValueError if the poolings do not leave one pixel or more of each side evenly."""
        step = 2 ** len(self.widths)
        if size % step:
            raise ValueError(
                f"'{self.name}' halves the image {len(self.widths)} times (one pooling for each of 'widths'); "
                f"'image_size' must be a multiple of {step}, found {size}"
            )

    @model_validator(mode="after")
    def _consistent(self) -> Wide7B:
        if not self.widths:
            raise ValueError("'widths' must name at least one unit")
        return self


class ViT(Architecture):
    """Vision transformer (Dosovitskiy et al., ICLR 2021), an ANN.

    It takes the student's batch: undoes its normalisation, resizes it to `image_size` and applies its own.
    """

    family: Literal["vit"] = "vit"
    form: Literal["ann"] = "ann"
    image_size: int = Field(gt=0)
    patch: int = Field(gt=0)
    dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Interpolation = "bicubic"

    @property
    def spiking(self) -> bool:
        """False: there is no other form."""
        return False

    @property
    def slug(self) -> str:
        """The name, which says it all."""
        return self.name

    @model_validator(mode="after")
    def _consistent(self) -> ViT:
        if self.image_size % self.patch:
            raise ValueError(f"'patch' must divide 'image_size', found {self.patch} and {self.image_size}")
        _check_heads(self.heads, "dim", self.dim)
        self._check_time(self.form, False)
        return self


class OwnNetwork(Architecture, own.Own):
    """Base of a family of the user's own: `build(dataset)` returns a `models.Network`; form `ann` has no neurons."""

    family: str
    form: Literal["ann", "spiking"] = "spiking"

    @property
    def spiking(self) -> bool:
        """Whether the network emits spikes over time-steps."""
        return self.form == "spiking"

    @property
    def slug(self) -> str:
        """The name, and before it what an ANN is."""
        return self.name if self.spiking else f"ann-{self.name}"

    @model_validator(mode="after")
    def _timeless(self) -> OwnNetwork:
        self._check_time(self.form, self.spiking)
        return self


Network = Annotated[
    ResNet | Spikformer | Spikingformer | MetaSpikeformer | Wide7B | ViT,
    Field(discriminator="family"),
    own.or_own("family"),
    SerializeAsAny(),
]


def _check_heads(heads: int, key: str, width: int) -> None:
    if width % heads:
        raise ValueError(f"'heads' must divide '{key}', found {heads} heads for a width of {width}")


def _size(name: str) -> str:
    """The depth and width of names such as sformer-4-384."""
    return name.removeprefix("sformer-").removeprefix("mformer-")
