"""The networks: geometry (depth, widths and so on), form (ANN, spiking, ...), neurons and time-steps of each family.

Every family declares its own `form` and `fires`; it inherits the other common fields from `Architecture`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from bkdsnn.config import own
from bkdsnn.config.datasets import Interpolation, View
from bkdsnn.config.identity import Part
from bkdsnn.config.surrogates import SURROGATES, known_surrogate

Count = Annotated[int, Field(gt=0)]
AnyCount = Annotated[int, Field(ge=0)]


class Neuron(Part):
    """A spiking neuron: charge (H), fire (S = 1 where H >= v_threshold), reset (V).

    `if`: H = V + x. `lif`: H = V + (x - (V - v_reset)) / tau with `decay_input`, else H = V - (V - v_reset) / tau + x.
    `plif` is `lif` with a learned 1 / tau, one number per layer.
    """

    kind: Literal["if", "lif", "plif"] = Field(description="integrate and fire; with leak; with a learned leak")
    tau: float = Field(default=2.0, ge=1, description="time constant of the leak, in time-steps; of plif the first")
    decay_input: bool = Field(default=True, description="divide the input by tau too")
    v_threshold: float = Field(default=1.0, gt=0, description="membrane potential at which the neuron fires")
    v_reset: float | None = Field(default=0.0, description="V after a spike; null: soft reset, V = H - v_threshold")
    v_init: float = Field(default=0.0, description="membrane potential before the first time-step")
    detach_reset: bool = Field(default=True, description="no gradient flows through the reset")
    surrogate: Annotated[str, AfterValidator(known_surrogate)] = Field(
        description="gradient of a spike in the backward pass, an entry of SURROGATES in bkdsnn/config/surrogates.py",
        json_schema_extra={"enum": [*SURROGATES]},
    )
    alpha: float = Field(gt=0, description="steepness (atan, sigmoid, triangle) or width (rectangle) of the surrogate")


class Quantised(Part):
    """QCFS activation: clip(floor(x L / theta + 1/2) / L, 0, 1) theta, theta learned per layer."""

    levels: int = Field(gt=0, description="L, number of steps of the activation")
    init: float = Field(default=8.0, gt=0, description="theta before training")


class Architecture(Part):
    """Base of all network families.

    `fires` lists the forms in which a family emits spikes over time-steps; every family declares it, and in all other
    forms a network has no time dimension. `takes` lists the kinds of input data. `flattens` says that the head takes a
    flattened feature map, so that there is no pooled vector. `prefix` is the beginning of the names of its networks.
    """

    fires: ClassVar[frozenset[str]]
    takes: ClassVar[frozenset[str]] = frozenset({"images"})
    flattens: ClassVar[bool] = False
    prefix: ClassVar[str] = ""
    form: str = Field(description="which variant of the family it is: ANN, spiking, or a step of a conversion")
    name: str = Field(description="the network's key in networks.yaml")
    timesteps: int = Field(default=1, gt=0, description="T, number of time-steps; 1 in a form without spikes")
    view: View = Field(default=View(), description="crop of test images that come as files")

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Refuse a family that does not declare `fires`, because its energy would be computed wrongly."""
        super().__pydantic_init_subclass__(**options)
        if not hasattr(cls, "fires"):
            raise TypeError(
                f"family {cls.__name__} must state `fires: ClassVar[frozenset[str]]`, the values of 'form' in which it "
                "emits spikes over time-steps (empty for an ANN)"
            )

    @property
    def spiking(self) -> bool:
        """Whether the network emits spikes over time-steps."""
        return self.form in self.fires

    @property
    def slug(self) -> str:
        """The network's part of a run's name: its distinguishing labels, then its name without `prefix`."""
        return "-".join((*filter(None, self._labels()), self.name.removeprefix(self.prefix)))

    def _labels(self) -> tuple[str, ...]:
        return ()

    def geometry(self) -> dict[str, Any]:
        """Return all fields except form and time-steps."""
        return self.model_dump(exclude={"form", "timesteps"})

    def check_image(self, size: int) -> None:
        """Raise ValueError if the network cannot take square images of this size; most networks take any size."""

    def _check_form(self, needs_neuron: bool, neuron: Neuron | None) -> None:
        if needs_neuron != (neuron is not None):
            raise ValueError(f"form '{self.form}' {'takes no' if neuron else 'needs a'} 'neuron'")

    def _check_time(self) -> None:
        if not self.spiking and self.timesteps != 1:
            raise ValueError(f"form '{self.form}' has no time: 'timesteps' must be 1, found {self.timesteps}")


class ResNet(Architecture):
    """A residual network: an ANN, a spiking network, or the source or target of an ANN-to-SNN conversion."""

    fires: ClassVar[frozenset[str]] = frozenset({"spiking", "sew", "qcfs-snn"})
    family: Literal["resnet"] = Field(default="resnet", description="selects this family")
    form: Literal["ann", "spiking", "sew", "qcfs", "qcfs-snn"] = Field(
        description="ReLU; neuron after the addition, or before it (SEW); source or target of a QCFS conversion"
    )
    stem: Literal["imagenet", "cifar"] = Field(description="7x7 convolution and pooling (stride 4), or 3x3 convolution")
    stem_width: int = Field(gt=0, description="channels after the first convolution")
    block: Literal["basic", "bottleneck"] = Field(description="two 3x3 convolutions, or 1x1, 3x3, 1x1")
    blocks: tuple[int, ...] = Field(description="number of blocks in each stage")
    widths: tuple[int, ...] = Field(description="channels of each stage; a bottleneck block puts out 4 times as many")
    shortcut: Literal["conv", "pad"] = Field(
        default="conv", description="where sizes differ: a 1x1 convolution, or subsampling and zero channels"
    )
    hidden: int | None = Field(default=None, gt=0, description="width of a fully connected layer before the last")
    norm: Literal["bn", "tdbn"] = Field(default="bn", description="batch norm, or the threshold-dependent one")
    still_norm: bool = Field(
        default=False, description="the stem's running variance is that of images repeated T times"
    )
    neuron: Neuron | None = Field(default=None, description="spiking neuron, in the forms spiking and sew")
    quantised: Quantised | None = Field(default=None, description="activation, in the forms qcfs and qcfs-snn")

    def _labels(self) -> tuple[str, ...]:
        return (self.form,)

    @model_validator(mode="after")
    def _consistent(self) -> ResNet:
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"'blocks' has {len(self.blocks)} stages, 'widths' {len(self.widths)}; expected as many")
        if self.form.startswith("qcfs") != (self.quantised is not None):
            raise ValueError(f"form '{self.form}' {'takes no' if self.quantised else 'needs'} 'quantised'")
        self._check_form(self.form in ("spiking", "sew"), self.neuron)
        self._check_time()
        return self


class SpikingTransformer(Architecture):
    """Base of Spikformer and Spikingformer: a convolutional tokenizer, blocks of attention and MLP, a linear head."""

    fires: ClassVar[frozenset[str]] = frozenset({"spiking"})
    takes: ClassVar[frozenset[str]] = frozenset({"images", "events"})
    prefix: ClassVar[str] = "sformer-"
    family: str = Field(description="name of the family")
    form: Literal["ann", "spiking"] = Field(
        description="spiking, or the ANN counterpart: ReLU in place of every neuron, and softmax attention"
    )
    dim: int = Field(gt=0, description="D, width of a token; the tokenizer widens by D/8, D/4, D/2, D")
    depth: int = Field(gt=0, description="number of blocks")
    heads: int = Field(gt=0, description="number of attention heads")
    mlp_ratio: int = Field(default=4, gt=0, description="hidden width of the MLP over D")
    pools: tuple[Literal[1, 2, 3, 4], ...] = Field(description="convolutions of the tokenizer that halve the map")
    cml: bool = Field(default=False, description="pool before the neuron fires (Zhou et al., 2023) instead of after")
    attention_threshold: float = Field(default=0.5, gt=0, description="v_threshold of the neurons after attention")
    attention_scale: float = Field(default=0.125, gt=0, description="factor of spiking attention, q k^T v")
    neuron: Neuron | None = Field(default=None, description="spiking neuron, in the form spiking")

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
        self._check_form(self.spiking, self.neuron)
        self._check_time()
        return self

    def _labels(self) -> tuple[str, ...]:
        return (self.family, "" if self.spiking else "ann", "cml" if self.cml else "")


class Spikformer(SpikingTransformer):
    """Spikformer (Zhou et al., ICLR 2023): residual connections add spikes; a convolution encodes relative position."""

    family: Literal["spikformer"] = Field(default="spikformer", description="selects this family")


class Spikingformer(SpikingTransformer):
    """Spikingformer (Zhou et al., 2023): neurons come before convolutions; residual connections add input currents."""

    family: Literal["spikingformer"] = Field(default="spikingformer", description="selects this family")


class MetaSpikeformer(Architecture):
    """Meta-SpikeFormer (Yao et al., ICLR 2024): two convolutional stages, then two with spike-driven attention."""

    fires: ClassVar[frozenset[str]] = frozenset({"spiking"})
    prefix: ClassVar[str] = "mformer-"
    family: Literal["meta-spikeformer"] = Field(default="meta-spikeformer", description="selects this family")
    form: Literal["spiking"] = Field(default="spiking", description="always spiking")
    dims: tuple[int, int, int, int] = Field(description="widths of the stages at 1/4, 1/8, 1/16 and 1/16")
    conv_blocks: tuple[AnyCount, AnyCount, AnyCount] = Field(
        default=(1, 1, 2), description="number of convolutional blocks at 1/2, 1/4 and 1/8 of the image's size"
    )
    attention_blocks: tuple[Count, Count] = Field(
        default=(6, 2), description="number of blocks with attention in the last two stages"
    )
    heads: int = Field(default=8, gt=0, description="number of attention heads")
    mlp_ratio: int = Field(default=4, gt=0, description="hidden width of the MLP over the width of its stage")
    distilled_head: bool = Field(default=False, description="a second head that imitates a teacher's decisions")
    attention_threshold: float = Field(default=0.5, gt=0, description="v_threshold of the neurons after attention")
    attention_scale: float = Field(default=0.125, gt=0, description="factor of spiking attention")
    neuron: Neuron = Field(description="spiking neuron")

    def _labels(self) -> tuple[str, ...]:
        return (self.family,)

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

    A 1x1 convolution comes first, and wherever the width changes. The feature map after the last pooling is flattened.
    """

    fires: ClassVar[frozenset[str]] = frozenset({"sew"})
    takes: ClassVar[frozenset[str]] = frozenset({"events"})
    flattens: ClassVar[bool] = True
    family: Literal["wide-7b"] = Field(default="wide-7b", description="selects this family")
    form: Literal["sew"] = Field(default="sew", description="always sew")
    widths: tuple[Count, ...] = Field(description="channels of each unit, in order")
    neuron: Neuron = Field(description="spiking neuron")

    def check_image(self, size: int) -> None:
        """Raise ValueError if the image's side is not divisible by the total stride of the poolings."""
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

    It takes the student's images: it undoes their normalisation, resizes them and applies its own.
    """

    fires: ClassVar[frozenset[str]] = frozenset()
    family: Literal["vit"] = Field(default="vit", description="selects this family")
    form: Literal["ann"] = Field(default="ann", description="always ann")
    image_size: int = Field(gt=0, description="height and width to which images are resized, pixels")
    patch: int = Field(gt=0, description="height and width of a patch, pixels")
    dim: int = Field(gt=0, description="width of a token")
    depth: int = Field(gt=0, description="number of blocks")
    heads: int = Field(gt=0, description="number of attention heads")
    mean: tuple[float, float, float] = Field(description="mean by which it normalises images, by channel")
    std: tuple[float, float, float] = Field(description="standard deviation by which it normalises images, by channel")
    resize: Interpolation = Field(default="bicubic", description="how images are resized")

    @model_validator(mode="after")
    def _consistent(self) -> ViT:
        if self.image_size % self.patch:
            raise ValueError(f"'patch' must divide 'image_size', found {self.patch} and {self.image_size}")
        _check_heads(self.heads, "dim", self.dim)
        self._check_time()
        return self


class OwnNetwork(Architecture, own.Own):
    """Base of a family of the user's own: `build(dataset)` returns a `models.Network`; form `ann` has no neurons."""

    fires: ClassVar[frozenset[str]] = frozenset({"spiking"})
    family: str = Field(description="name of the family")
    form: Literal["ann", "spiking"] = Field(default="spiking", description="spiking, or the same network as an ANN")

    def _labels(self) -> tuple[str, ...]:
        return () if self.spiking else (self.form,)

    @model_validator(mode="after")
    def _timeless(self) -> OwnNetwork:
        self._check_time()
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
