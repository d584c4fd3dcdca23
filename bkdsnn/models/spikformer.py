"""Spikformer (Zhou et al., ICLR 2023), with and without CML (Zhou et al., 2023), and its ANN twin."""

from __future__ import annotations

from torch import Tensor, nn

from bkdsnn import config
from bkdsnn.models.transformer import Attention, Transformer, initialise_linear, mlp, neuron


class Spikformer(Transformer):
    """Every branch ends in a neuron, so the tokens are sums of spikes: small integers.

    The relative position of tokens enters by the fifth convolution of the tokenizer, whose spikes are added to its
    input.
    """

    def __init__(self, network: config.Spikformer, dataset: config.Dataset) -> None:
        # The reference projects tokens by linear layers at 32 x 32 pixels, by convolutions at 224 x 224, where every
        # stage of the stem pools (D-069). With convolutions q, k and v have no bias, and weights are drawn as torch
        # does.
        linear = len(network.pools) < 4
        blocks = [Block(network, qkv_bias=linear) for _ in range(network.depth)]
        super().__init__(network, dataset, blocks)
        self.position_neuron = neuron(network)
        if linear:
            nn.ModuleList(blocks).apply(initialise_linear)

    def embed(self, x: Tensor) -> Tensor:
        """Add the spikes that tell positions, (T*B, D, h, w)."""
        return x + self.position_neuron(self.embedding(x))


class Block(nn.Module):
    """Attention and MLP, each followed by its neuron and added to its input, (T*B, D, h, w)."""

    def __init__(self, network: config.Spikformer, qkv_bias: bool) -> None:
        super().__init__()
        self.attention = Attention(network, qkv_bias)
        self.neuron1 = neuron(network)
        self.mlp = mlp(network)
        self.neuron2 = neuron(network)

    def forward(self, x: Tensor) -> Tensor:
        """Return integers (T*B, D, h, w), at most 2 above those of `x`."""
        x = x + self.neuron1(self.attention(x))
        return x + self.neuron2(self.mlp(x))
