"""Meta-SpikeFormer (Yao et al., ICLR 2024): two convolutional stages, then two of attention without softmax.

The geometry is that of the authors' code; neurons stand before the convolutions, so residual sums are of currents.

    layers (numbers: defaults)  map   width        what they are
    stem                        1/2   dims[0] / 2  7x7 convolution of the image
    conv1                       1/2   dims[0] / 2  blocks of convolutions
    down2, conv2                1/4   dims[0]      each `down` a 3x3 convolution of spikes
    down3, conv3, conv4         1/8   dims[1]
    down4, block1 .. block6     1/16  dims[2]      blocks of attention and MLP
    down5, block7, block8       1/16  dims[3]

The authors' code declares stochastic depth but never applies it: there is none here (D-071).

Shapes: T time-steps, B images, C channels, h w pixels. Images are still: layers before the first neuron run once per
image; all later activations are folded, (T*B, C, h, w), time-major, and norms normalise over T*B samples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from bkdsnn import config
from bkdsnn.models.folded import Folded
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.outputs import Attended
from bkdsnn.models.transformer import StillNorm, attend, attentions, initialise_linear


class MetaSpikeformer(Folded):
    """Stem, trunk, mean over the map, neurons, linear head.

    `taps` names the outputs of the attention blocks, `block1` .. `blockN`; the last is the feature before the head.
    A network with `distilled_head` has a second head after the same neurons (D-073): in training it learns the
    teacher's decisions, and in evaluation the logits of both heads are averaged (DeiT, Touvron et al., 2021).
    """

    last_layer = "head"

    def __init__(self, network: config.MetaSpikeformer, dataset: config.Dataset) -> None:
        super().__init__()
        self.timesteps = network.timesteps
        width = network.dims[0] // 2
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, stride=2, padding=3), StillNorm(width, network.timesteps))
        trunk = _trunk(network)
        self.taps = tuple(name for name in trunk if name.startswith("block"))
        self.trunk = nn.Sequential(trunk)
        self.neuron = _neuron(network)
        self.head = _head(network, dataset)
        self.distilled_head = _head(network, dataset) if network.distilled_head else None

    def mac_layers(self) -> dict[str, int]:
        """Return the stem, counted T times because the published code repeats images T times before it."""
        return {"stem.0": self.timesteps}

    def attentions(self) -> dict[str, Attended]:
        """Return the attention of every block."""
        return attentions(self)

    def enter(self, x: Tensor) -> Tensor:
        """Return currents (B, C, h, w) of still images (B, 3, H, W): the first neurons repeat them."""
        currents: Tensor = self.stem(x)
        return currents

    def chain(self) -> Iterable[tuple[str, nn.Module]]:
        """Return the layers of the trunk."""
        return self.trunk.named_children()

    def decide(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits (T*B, K) of the mean currents (T*B, C), and in training those of the second head."""
        spikes = self.neuron(pooled)
        logits = self.head(spikes)
        if self.distilled_head is None:
            return logits, None
        distilled = self.distilled_head(spikes)
        return (logits, distilled) if self.training else ((logits + distilled) / 2, None)

    def layer(self, tap: str) -> nn.Module:
        """Return the block of a tap."""
        self.check_taps([tap])
        return self.trunk.get_submodule(tap)

    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return the layers of the trunk."""
        return [(layer, "forward") for layer in self.trunk]


class Downsampling(nn.Sequential):
    """Spikes of the currents, convolved 3x3: (T*B, inputs, h, w) to (T*B, outputs, h / stride, w / stride)."""

    def __init__(
        self, network: config.MetaSpikeformer, inputs: int, outputs: int, stride: int, static: bool = False
    ) -> None:
        super().__init__(_neuron(network, static), *_conv(inputs, outputs, 3, stride))


class ConvBlock(nn.Module):
    """Two residual branches: a separable 7x7 convolution, and 3x3 convolutions that widen and narrow.

    (T*B, C, h, w) to the same; a `static` block takes the currents (B, C, h, w) of still images.
    """

    def __init__(self, network: config.MetaSpikeformer, width: int, static: bool = False) -> None:
        super().__init__()
        hidden = 2 * width  # as in the authors' code
        self.separable = nn.Sequential(
            _neuron(network, static),
            *_conv(width, hidden, 1, bias=False),
            _neuron(network),
            nn.Conv2d(hidden, hidden, 7, padding=3, groups=hidden, bias=False),
            *_conv(hidden, width, 1, bias=False),
        )
        self.channels = _mlp(network, width, kernel=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of `x` and both branches."""
        branch = self.separable(x).unflatten(0, (-1, len(x)))  # (T, B, ...) of still images, else (1, T*B, ...)
        x = (x + branch).flatten(0, 1)
        return x + self.channels(x)


class AttentionBlock(nn.Module):
    """Two residual branches, attention and MLP: (T*B, C, h, w) to the same."""

    def __init__(self, network: config.MetaSpikeformer, width: int) -> None:
        super().__init__()
        self.attention = Attention(network, width)
        self.mlp = _mlp(network, width, kernel=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of `x` and both branches."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class Attention(nn.Module):
    """Attention of spikes, scale q k^T v, whose linear maps are `_reparameterised`: (T*B, C, h, w) to the same."""

    def __init__(self, network: config.MetaSpikeformer, width: int) -> None:
        super().__init__()
        self.heads, self.scale = network.heads, network.attention_scale
        self.neuron = _neuron(network)
        self.q, self.k, self.v = (nn.Sequential(*_reparameterised(width), _neuron(network)) for _ in range(3))
        self.mixed = _neuron(network, v_threshold=network.attention_threshold)
        self.project = nn.Sequential(*_reparameterised(width))

    def attended(self) -> Attended:
        """Return the neurons of q, k, v and attention, each a layer of their own."""
        layers = {"q": self.q, "k": self.k, "v": self.v, "attention": self.mixed}
        return Attended(self, {name: (layer, None) for name, layer in layers.items()}, self.heads, True)

    def forward(self, x: Tensor) -> Tensor:
        """Return currents."""
        spikes = self.neuron(x)
        q, k, v = (self._tokens(layer(spikes)) for layer in (self.q, self.k, self.v))
        mixed = attend(q, k, v, self.scale).transpose(1, 2).flatten(2)  # T*B, tokens, C
        return self.project(self.mixed(mixed.mT.reshape(x.shape)))

    def _tokens(self, maps: Tensor) -> Tensor:
        """Return (T*B, heads, tokens, C / heads) of maps (T*B, C, h, w)."""
        return maps.flatten(2).unflatten(1, (self.heads, -1)).mT


class PaddedNorm(nn.BatchNorm2d):
    """Batch norm, then a border of one pixel, filled with the norm's output for input zero.

    After a 1x1 convolution without bias this equals zero padding before that convolution, so that the convolutions
    before and after the norm can be merged into one 3x3 convolution (Ding et al., 2021). As in the authors' code the
    border is computed from the running statistics, in training too, and passes no gradient (D-072).
    """

    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return (T*B, C, h + 2, w + 2) of (T*B, C, h, w)."""
        inner = functional.pad(super().forward(x), (1, 1, 1, 1))
        border = functional.pad(x.new_zeros(x.shape[-2:]), (1, 1, 1, 1), value=1.0)
        return inner + (self.of_zero()[:, None, None] * border).to(inner.dtype)

    def of_zero(self) -> Tensor:
        """Return the value of each channel (C) at input zero."""
        slope = self.weight.detach() / torch.sqrt(self.running_var + self.eps)
        return self.bias.detach() - self.running_mean * slope


def _reparameterised(width: int) -> tuple[nn.Module, ...]:
    """Return the convolutions and norms that replace a linear map: (T*B, C, h, w) to the same."""
    depthwise = nn.Conv2d(width, width, 3, groups=width, bias=False)
    first = nn.Conv2d(width, width, 1, bias=False)
    return first, PaddedNorm(width), depthwise, *_conv(width, width, 1, bias=False), nn.BatchNorm2d(width)


def _mlp(network: config.MetaSpikeformer, width: int, kernel: int, bias: bool) -> nn.Sequential:
    hidden = network.mlp_ratio * width
    widen, narrow = _conv(width, hidden, kernel, bias=bias), _conv(hidden, width, kernel, bias=bias)
    return nn.Sequential(_neuron(network), *widen, _neuron(network), *narrow)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """Return convolution and norm: (T*B, inputs, h, w) to (T*B, outputs, h / stride, w / stride)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias), nn.BatchNorm2d(outputs)


def _trunk(network: config.MetaSpikeformer) -> OrderedDict[str, nn.Module]:
    """Return all layers after the stem, by name; the first is `static`: its input is the currents of still images."""
    widths = (network.dims[0] // 2, *network.dims)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    convolutions, blocks = count(1), count(1)
    for stage, depth in enumerate((*network.conv_blocks, *network.attention_blocks)):
        if stage:
            inputs, outputs, stride = widths[stage - 1], widths[stage], 1 if stage == 4 else 2
            layers[f"down{stage + 1}"] = Downsampling(network, inputs, outputs, stride, static=not layers)
        for _ in range(depth):
            if stage < len(network.conv_blocks):
                layers[f"conv{next(convolutions)}"] = ConvBlock(network, widths[stage], static=not layers)
            else:
                layers[f"block{next(blocks)}"] = AttentionBlock(network, widths[stage])
    return layers


def _head(network: config.MetaSpikeformer, dataset: config.Dataset) -> nn.Linear:
    head = nn.Linear(network.dims[-1], dataset.classes)
    initialise_linear(head)
    return head


def _neuron(network: config.MetaSpikeformer, static: bool = False, **changes: float) -> Spiking:
    return Spiking(network.neuron.model_copy(update=changes), network.timesteps, static)
