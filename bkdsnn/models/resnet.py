"""Residual networks, in five forms that share one geometry (He et al., 2016; version 1.5: stride on the 3x3).

    form      what follows conv-norm                                                      add
    ann       ReLU                                                                        before the last ReLU
    spiking   neuron in place of each ReLU (Spiking ResNet)                               before the last neuron
    sew       neuron after every conv-norm, the projection's too (Fang et al., 2021)      last: small integers
    qcfs      clip-floor activation, average pool in place of max pool (Bu et al., 2022)  before the last activation
    qcfs-snn  the spiking neurons that reproduce qcfs                                     before the last neuron

Parameters and buffers carry torchvision's names, so its published weights load as they are.

Shapes: T time-steps, B images, C channels, h w pixels. Images are still: layers before the first neuron run once per
image; all later activations are folded, (T*B, C, h, w), time-major, and norms normalise over T*B samples.
"""

from __future__ import annotations

import abc
import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models.folded import Folded
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.quantised import ClipFloor, SpikingClipFloor
from bkdsnn.models.transformer import StillNorm


class ResNet(Folded):
    """Stem, stages `layer1` .. `layerN`, average pool, fully connected head.

    `taps` names the outputs of the stages, `stage1` .. `stageN`; the last is the feature before the last layer
    (D-010), also in a network whose head has a hidden layer (D-011).
    """

    last_layer = "fc"

    def __init__(self, network: config.ResNet, dataset: config.Dataset) -> None:
        super().__init__()
        self.timesteps = network.timesteps
        self.taps = tuple(f"stage{index}" for index in range(1, len(network.blocks) + 1))
        kernel, stride = (7, 2) if network.stem == "imagenet" else (3, 1)
        self.conv1 = _conv(3, network.stem_width, kernel, stride)
        self.bn1 = _norm(network, network.stem_width, still=network.still_norm)
        self.act1 = _activation(network, static=True)
        self.pool = _pool(network)
        channels = network.stem_width
        for index, (depth, width) in enumerate(zip(network.blocks, network.widths)):
            stage = _stage(network, channels, width, depth, stride=2 if index else 1)
            self.add_module(f"layer{index + 1}", stage)
            channels = width * _BLOCKS[network.block].expansion
        self.hidden = _hidden(network, channels)
        self.fc = nn.Linear(network.hidden or channels, dataset.classes)
        self.apply(_initialise)

    def mac_layers(self) -> dict[str, int]:
        """Return the stem, which the published code of spiking ResNets runs once per image."""
        return {"conv1": 1}

    def enter(self, x: Tensor) -> Tensor:
        """Return the input of the first stage, (T*B, C, h, w), for images (B, 3, H, W)."""
        return self.stem(x)

    def decide(self, pooled: Tensor) -> tuple[Tensor, None]:
        """Return logits (T*B, K) for the pooled vector (T*B, C), and None: there is no second head."""
        return self.fc(self.hidden(pooled)), None

    def stem(self, x: Tensor) -> Tensor:
        """Return the input of the first stage, (T*B, C, h, w), for images (B, 3, H, W)."""
        pooled: Tensor = self.pool(self.act1(self.bn1(self.conv1(x))))
        return pooled

    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return the stem and the blocks."""
        blocks = (block for tap in self.taps for block in self.layer(tap).children())
        return [(self, "stem"), *((block, "forward") for block in blocks)]

    def layer(self, tap: str) -> nn.Module:
        """Return the stage of a tap: `layer1` of `stage1`."""
        self.check_taps([tap])
        return self.get_submodule(tap.replace("stage", "layer"))


class Residual(nn.Module, abc.ABC):
    """Base of the blocks: (T*B, inputs, h, w) to (T*B, outputs, h / stride, w / stride)."""

    expansion: int

    def __init__(self, network: config.ResNet, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.add_last = network.form == "sew"
        self.downsample = _shortcut(network, inputs, outputs, stride)
        self.act = _activation(network)

    @abc.abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """Return the block's convolutions of `x`, up to the last norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Join branch and shortcut."""
        branch, shortcut = self.branch(x), self.downsample(x)
        return self.act(branch) + shortcut if self.add_last else self.act(branch + shortcut)


class Basic(Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, network: config.ResNet, inputs: int, width: int, stride: int) -> None:
        super().__init__(network, inputs, width, stride)
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = _norm(network, width)
        self.act1 = _activation(network)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = _norm(network, width, "branch")

    def branch(self, x: Tensor) -> Tensor:
        """Return (T*B, width, h / stride, w / stride)."""
        return self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions; the last widens fourfold."""

    expansion = 4

    def __init__(self, network: config.ResNet, inputs: int, width: int, stride: int) -> None:
        super().__init__(network, inputs, width * 4, stride)
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = _norm(network, width)
        self.act1 = _activation(network)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = _norm(network, width)
        self.act2 = _activation(network)
        self.conv3 = _conv(width, width * 4, 1)
        self.bn3 = _norm(network, width * 4, "branch")

    def branch(self, x: Tensor) -> Tensor:
        """Return (T*B, 4 width, h / stride, w / stride)."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.act2(self.bn2(self.conv2(x)))))


_BLOCKS: dict[str, type[Basic] | type[Bottleneck]] = {"basic": Basic, "bottleneck": Bottleneck}


class Projection(nn.Conv2d):
    """A 1x1 convolution that subsamples its input before the convolution, which gives the same result as a stride.

    On CPUs the backward pass of oneDNN's strided convolution writes past its workspace if a channels-last input has
    fewer channels than a vector register (uxlfoundation/oneDNN, issue 6035): it corrupts memory and sometimes crashes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (T*B, outputs, h / stride, w / stride)."""
        rows, columns = self.stride
        return functional.conv2d(x[..., ::rows, ::columns], self.weight)


class PadShortcut(nn.Module):
    """Shortcut without parameters (He et al., 2016, option A): subsample by `stride`, add `extra` zero channels."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = extra // 2, extra - extra // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (T*B, C + extra, h / stride, w / stride)."""
        return functional.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _stage(network: config.ResNet, inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
    block = _BLOCKS[network.block]
    rest = (block(network, width * block.expansion, width, 1) for _ in range(depth - 1))
    return nn.Sequential(block(network, inputs, width, stride), *rest)


def _shortcut(network: config.ResNet, inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if network.shortcut == "pad":
        return PadShortcut(outputs - inputs, stride)
    projection = [Projection(inputs, outputs, 1, stride, bias=False), _norm(network, outputs, "shortcut")]
    return nn.Sequential(*projection, *([_activation(network)] if network.form == "sew" else []))


def _hidden(network: config.ResNet, channels: int) -> nn.Module:
    if network.hidden is None:
        return nn.Identity()
    return nn.Sequential(nn.Linear(channels, network.hidden), _activation(network))


def _pool(network: config.ResNet) -> nn.Module:
    if network.stem == "cifar":
        return nn.Identity()
    return (nn.AvgPool2d if network.form.startswith("qcfs") else nn.MaxPool2d)(3, stride=2, padding=1)


def _activation(network: config.ResNet, static: bool = False) -> nn.Module:
    if network.neuron is not None:
        return Spiking(network.neuron, network.timesteps, static)
    if network.quantised is None:
        return nn.ReLU(inplace=True)
    if network.form == "qcfs":
        return ClipFloor(network.quantised)
    return SpikingClipFloor(network.quantised, network.timesteps, static)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _norm(
    network: config.ResNet,
    channels: int,
    place: Literal["inner", "branch", "shortcut"] = "inner",
    still: bool = False,
) -> nn.BatchNorm2d:
    norm = StillNorm(channels, network.timesteps) if still else nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, _gain(network, place))
    return norm


def _gain(network: config.ResNet, place: str) -> float:
    """Initial scale of a norm.

    tdBN (Zheng et al., 2021) is a batch norm over T*B samples whose output is multiplied by alpha v_threshold, with
    alpha = 1, or 1 / sqrt(2) for the two terms of a residual sum. Here this factor is the initial value of the learned
    scale instead, which changes only how fast the scale learns. The reference trains Spiking ResNets with
    zero-initialised residual branches (Goyal et al., 2017; D-056, D-058).
    """
    if network.norm == "tdbn":
        if network.neuron is None:
            raise UserError(f"network '{network.name}': norm 'tdbn' needs a neuron, form '{network.form}' has none")
        return network.neuron.v_threshold * (1.0 if place == "inner" else math.sqrt(0.5))
    zero = place == "branch" and network.form == "spiking" and network.stem == "imagenet"
    return 0.0 if zero else 1.0


def _initialise(module: nn.Module) -> None:
    """Initialise convolutions as the SEW reference does (D-057); fully connected layers keep torch's default."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
