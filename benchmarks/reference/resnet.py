"""SEW-ResNet and Spiking ResNet of spikingjelly's zoo, or of its blocks where the zoo has none.

Parameters are called as ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from spikingjelly.activation_based import functional, layer
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from torch import Tensor, nn

from bkdsnn import config
from reference.nodes import node, node_options

BLOCKS = {
    ("sew", "basic"): sew_resnet.BasicBlock,
    ("sew", "bottleneck"): sew_resnet.Bottleneck,
    ("spiking", "basic"): spiking_resnet.BasicBlock,
    ("spiking", "bottleneck"): spiking_resnet.Bottleneck,
}
ZOO_WIDTHS = (64, 128, 256, 512)


def build(network: config.ResNet, dataset: config.Dataset) -> tuple[nn.Module, nn.Module]:
    """Return the network, from (T, B, 3, H, W) to (T, B, K), and its last stage."""
    in_zoo = (network.form, network.stem, network.widths) == ("sew", "imagenet", ZOO_WIDTHS)
    net = (zoo if in_zoo else assembled)(network, dataset.classes)
    functional.set_step_mode(net, "m")
    return net, net.get_submodule(f"layer{len(network.blocks)}")


def pairs(tensors: Mapping[str, Tensor], net: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Yield the tensors as they are."""
    return tensors.items()


def zoo(network: config.ResNet, classes: int) -> nn.Module:
    """Return spikingjelly's own SEW-ResNet of that depth."""
    block = BLOCKS[network.form, network.block]
    return sew_resnet.SEWResNet(block, network.blocks, classes, **block_options(network))


def assembled(network: config.ResNet, classes: int) -> nn.Module:
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


def stage(network: config.ResNet, index: int, inputs: int) -> nn.Sequential:
    """Return the blocks of one stage; the first halves the resolution, except in the first stage."""
    block = BLOCKS[network.form, network.block]
    width, stride, options = network.widths[index], 2 if index else 1, block_options(network)
    outputs = width * block.expansion
    projection = None
    if stride > 1 or inputs != outputs:
        projection = nn.Sequential(sew_resnet.conv1x1(inputs, outputs, stride), layer.BatchNorm2d(outputs))
    rest = (block(outputs, width, **options) for _ in range(network.blocks[index] - 1))
    return nn.Sequential(block(inputs, width, stride, projection, **options), *rest)


def block_options(network: config.ResNet) -> dict[str, Any]:
    """Return what the zoo's blocks are told beside their size."""
    kind, options = node_options(network.neuron)
    return {"spiking_neuron": kind, **({"cnf": "ADD"} if network.form == "sew" else {}), **options}
