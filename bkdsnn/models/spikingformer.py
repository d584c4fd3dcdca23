"""Spikingformer (Zhou et al., 2023), with and without CML (Zhou et al., 2023), and its ANN twin."""

from __future__ import annotations

from torch import Tensor, nn

from bkdsnn import config
from bkdsnn.models.transformer import Attention, Transformer, mlp, neuron


class Spikingformer(Transformer):
    """Every branch begins with a neuron, so the tokens are sums of currents: real numbers."""

    def __init__(self, network: config.Spikingformer, dataset: config.Dataset) -> None:
        super().__init__(network, dataset, [Block(network) for _ in range(network.depth)])

    def embed(self, x: Tensor) -> Tensor:
        """Return the currents of the fifth convolution, (T*B, D, h, w)."""
        return self.embedding(x)


class Block(nn.Module):
    """Attention and MLP, each behind its neuron and added to its input, (T*B, D, h, w)."""

    def __init__(self, network: config.Spikingformer) -> None:
        super().__init__()
        self.neuron1 = neuron(network)
        self.attention = Attention(network, qkv_bias=False)
        self.neuron2 = neuron(network)
        self.mlp = mlp(network)

    def forward(self, x: Tensor) -> Tensor:
        """Return currents (T*B, D, h, w)."""
        x = x + self.attention(self.neuron1(x))
        return x + self.mlp(self.neuron2(x))
