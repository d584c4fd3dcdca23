"""Wide-7B-Net from spikingjelly's layers: its zoo has none. Parameters are called as ours."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from bkdsnn import config
from reference.nodes import node


class Unit(nn.Module):
    """The published block, with the convolution before it if there is one: (T, B, C, h, w) to the same map."""

    def __init__(self, network: config.Wide7B, inputs: int, width: int) -> None:
        super().__init__()
        self.project = convolution(network, inputs, width, 1) if inputs != width else nn.Identity()
        self.branch = nn.Sequential(*(convolution(network, width, width, 3) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """Return sums of spikes."""
        x = self.project(x)
        return x + self.branch(x)


def build(network: config.Wide7B, dataset: config.Dataset) -> tuple[nn.Module, nn.Module]:
    """Return the network, from frames (T, B, 2, H, W) to (T, B, K), and its last unit."""
    widths = (network.widths[0], *network.widths)
    parts: dict[str, nn.Module] = {"stem": convolution(network, dataset.channels, widths[0], 1)}
    for index, pair in enumerate(pairwise(widths), start=1):
        parts |= {f"unit{index}": Unit(network, *pair), f"pool{index}": layer.MaxPool2d(2)}
    side = dataset.image_size >> len(network.widths)
    head = layer.Linear(widths[-1] * side**2, dataset.classes)
    net = nn.Sequential(OrderedDict(parts, flatten=layer.Flatten(), head=head))
    functional.set_step_mode(net, "m")
    return net, net.get_submodule(f"unit{len(network.widths)}")


def convolution(network: config.Wide7B, inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return convolution, norm and neurons: (T, B, inputs, h, w) to (T, B, outputs, h, w)."""
    weights = layer.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(weights, layer.BatchNorm2d(outputs), node(network.neuron))


def pairs(tensors: Mapping[str, Tensor], net: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Yield the tensors as they are."""
    return tensors.items()
