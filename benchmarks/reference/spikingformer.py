"""Spikingformer as its paper draws it, with and without CML, from spikingjelly's layers: its zoo has none.

Shapes: T time-steps, B images, D channels, h w the map of N tokens, d = D / heads. Parameters are called as ours, but
that q, k and v have a projection each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import pairwise

from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from bkdsnn import config
from reference.nodes import node


class Attention(nn.Module):
    """Three projections, and the products from the left: (T, B, D, h, w) to the same."""

    def __init__(self, network: config.Spikingformer) -> None:
        super().__init__()
        self.heads, self.scale = network.heads, network.attention_scale
        self.q, self.k, self.v = (unit(network.dim, network.dim) for _ in range(3))
        self.q_neuron, self.k_neuron, self.v_neuron = (node(network.neuron) for _ in range(3))
        self.attention_neuron = node(network.neuron, v_threshold=network.attention_threshold)
        self.project = unit(network.dim, network.dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return currents."""
        spikes = self.q_neuron(self.q(x)), self.k_neuron(self.k(x)), self.v_neuron(self.v(x))
        q, k, v = (self.tokens(part) for part in spikes)
        mixed = ((q @ k.transpose(-2, -1)) @ v) * self.scale
        return self.project(self.attention_neuron(mixed.transpose(-2, -1).reshape(x.shape)))

    def tokens(self, x: Tensor) -> Tensor:
        """Return (T, B, heads, N, d) of (T, B, D, h, w)."""
        return x.flatten(3).unflatten(2, (self.heads, -1)).transpose(-2, -1)


class Block(nn.Module):
    """Attention and MLP, each behind its neuron and added to its input: (T, B, D, h, w) to the same."""

    def __init__(self, network: config.Spikingformer) -> None:
        super().__init__()
        hidden = network.mlp_ratio * network.dim
        self.neuron1, self.attention = node(network.neuron), Attention(network)
        self.neuron2 = node(network.neuron)
        widen, narrow = unit(network.dim, hidden, bias=True), unit(hidden, network.dim, bias=True)
        self.mlp = nn.Sequential(widen, node(network.neuron), narrow)

    def forward(self, x: Tensor) -> Tensor:
        """Return currents."""
        x = x + self.attention(self.neuron1(x))
        return x + self.mlp(self.neuron2(x))


def build(network: config.Spikingformer, dataset: config.Dataset) -> tuple[nn.Module, nn.Module]:
    """Return the network, from (T, B, C, H, W) to (T, B, K), and its last block."""
    widths = (dataset.channels, network.dim // 8, network.dim // 4, network.dim // 2, network.dim)
    stages = (stage(network, index, *pair) for index, pair in enumerate(pairwise(widths), start=1))
    parts = {"stem": nn.Sequential(*stages), "embedding": unit(network.dim, network.dim, kernel=3)}
    parts |= {f"block{index}": Block(network) for index in range(1, network.depth + 1)}
    parts |= {"avgpool": layer.AdaptiveAvgPool2d(1), "flatten": layer.Flatten()}
    net = nn.Sequential(OrderedDict(parts, head=layer.Linear(network.dim, dataset.classes)))
    functional.set_step_mode(net, "m")
    return net, net.get_submodule(f"block{network.depth}")


def stage(network: config.Spikingformer, index: int, inputs: int, outputs: int) -> nn.Sequential:
    """Return a stage of the tokenizer: a pool, if it has one, before the neuron with CML, behind it without."""
    pool = [layer.MaxPool2d(3, 2, 1)] if index in network.pools else []
    fire = node(network.neuron)
    return nn.Sequential(*unit(inputs, outputs, kernel=3), *([*pool, fire] if network.cml else [fire, *pool]))


def unit(inputs: int, outputs: int, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    """Return convolution and norm: (T, B, inputs, h, w) to (T, B, outputs, h, w)."""
    convolution = layer.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(convolution, layer.BatchNorm2d(outputs))


def pairs(tensors: Mapping[str, Tensor], net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors, those of our one projection to q, k and v in three parts."""
    for name, value in tensors.items():
        if ".qkv." not in name:
            yield name, value
            continue
        thirds = value.chunk(3) if value.dim() else 3 * [value]  # one number: how many batches a norm has seen
        yield from ((name.replace(".qkv.", f".{part}."), third) for part, third in zip("qkv", thirds))
