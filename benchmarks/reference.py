"""The networks and neurons of this project made with spikingjelly alone, the way its users would.

Parameters carry the same names as ours, so one state dict fits both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from torch import Tensor, nn

from bkdsnn import spec
from bkdsnn.models import Outputs

SURROGATES = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid, "triangle": surrogate.PiecewiseQuadratic}
BLOCKS = {
    ("sew", "basic"): sew_resnet.BasicBlock,
    ("sew", "bottleneck"): sew_resnet.Bottleneck,
    ("spiking", "basic"): spiking_resnet.BasicBlock,
    ("spiking", "bottleneck"): spiking_resnet.Bottleneck,
}
ZOO_WIDTHS = (64, 128, 256, 512)


class Reference(nn.Module):
    """A spikingjelly network behind the interface of ours: every image repeated T times, membranes reset after use."""

    def __init__(self, network: spec.ResNet, classes: int) -> None:
        super().__init__()
        in_zoo = (network.form, network.stem, network.widths) == ("sew", "imagenet", ZOO_WIDTHS)
        self.net = zoo(network, classes) if in_zoo else assembled(network, classes)
        functional.set_step_mode(self.net, "m")
        self.timesteps = network.timesteps
        self.tap = f"stage{len(network.blocks)}"
        self.net.get_submodule(f"layer{len(network.blocks)}").register_forward_hook(self._keep)

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return logits (T, B, K) and the last stage's features (T, B, C, h, w) of images (B, 3, H, W)."""
        logits = self.net(images.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1))
        functional.reset_net(self.net)
        return Outputs(logits, {self.tap: self._features} if taps else {})

    def _keep(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        self._features = features


def zoo(network: spec.ResNet, classes: int) -> nn.Module:
    """Return spikingjelly's own SEW-ResNet of that depth."""
    block = BLOCKS[network.form, network.block]
    return sew_resnet.SEWResNet(block, network.blocks, classes, **block_options(network))


def assembled(network: spec.ResNet, classes: int) -> nn.Module:
    """Return a network that the zoo lacks, made of its blocks and layers."""
    kernel, stride = (7, 2) if network.stem == "imagenet" else (3, 1)
    block = BLOCKS[network.form, network.block]
    channels = (network.stem_width, *(width * block.expansion for width in network.widths))
    parts: dict[str, nn.Module] = {
        "conv1": layer.Conv2d(3, channels[0], kernel, stride, kernel // 2, bias=False),
        "bn1": layer.BatchNorm2d(channels[0]),
        "sn1": node(network.neuron),
        "maxpool": layer.MaxPool2d(3, 2, 1) if network.stem == "imagenet" else nn.Identity(),
    }
    for index in range(len(network.blocks)):
        parts[f"layer{index + 1}"] = stage(network, index, channels[index])
    parts |= {"avgpool": layer.AdaptiveAvgPool2d(1), "flatten": layer.Flatten()}
    if network.hidden:
        parts["hidden"] = nn.Sequential(layer.Linear(channels[-1], network.hidden), node(network.neuron))
    parts["fc"] = layer.Linear(network.hidden or channels[-1], classes)
    return nn.Sequential(OrderedDict(parts))


def stage(network: spec.ResNet, index: int, inputs: int) -> nn.Sequential:
    """Return the blocks of one stage; the first halves the resolution, except in the first stage."""
    block = BLOCKS[network.form, network.block]
    width, stride, options = network.widths[index], 2 if index else 1, block_options(network)
    outputs = width * block.expansion
    projection = None
    if stride > 1 or inputs != outputs:
        projection = nn.Sequential(sew_resnet.conv1x1(inputs, outputs, stride), layer.BatchNorm2d(outputs))
    rest = (block(outputs, width, **options) for _ in range(network.blocks[index] - 1))
    return nn.Sequential(block(inputs, width, stride, projection, **options), *rest)


def block_options(network: spec.ResNet) -> dict[str, Any]:
    """Return what the zoo's blocks are told beside their size."""
    kind, options = node_options(network.neuron)
    return {"spiking_neuron": kind, **({"cnf": "ADD"} if network.form == "sew" else {}), **options}


def node(configuration: spec.Neuron) -> nn.Module:
    """Return spikingjelly's neuron for a configuration, multi-step."""
    kind, options = node_options(configuration)
    return kind(**options, step_mode="m")


def node_options(configuration: spec.Neuron) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return the class of a neuron and its options."""
    options = {
        "v_threshold": configuration.v_threshold,
        "v_reset": configuration.v_reset,
        "detach_reset": configuration.detach_reset,
        "surrogate_function": SURROGATES[configuration.surrogate](configuration.alpha),
    }
    if configuration.kind == "if":
        return neuron.IFNode, options
    return neuron.LIFNode, {"tau": configuration.tau, "decay_input": configuration.decay_input, **options}
