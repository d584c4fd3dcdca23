"""Shared by Spikformer and Spikingformer: tokenizer, attention and MLP without the neurons around them, and head.

Both consist of a tokenizer of five 3x3 convolutions and of blocks with two residual branches, attention and MLP. They
differ in the position of the neurons: after each branch (Spikformer) or before it (Spikingformer). In form `ann` every
neuron is a ReLU, and attention uses a softmax.

Shapes: T time-steps, B images, D channels, N = h w tokens on a map of h w pixels, d = D / heads. Tokens are kept as
maps, so linear layers are 1x1 convolutions. Images are still: layers before the first neuron run once per image; all
later activations are folded, (T*B, D, h, w), time-major, and norms normalise over T*B samples. Frames of events are
folded from the start.

The references register two layer norms per block, 4 D parameters, and never call them; they are left out here (D-063).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from bkdsnn import config
from bkdsnn.models.folded import Folded
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.outputs import Attended, Network


class Transformer(Folded):
    """Tokenizer, blocks `block1` .. `blockL`, mean over tokens, linear head.

    `taps` names the outputs of the blocks; the last is the feature before the last layer.
    """

    last_layer = "head"

    def __init__(
        self, network: config.SpikingTransformer, dataset: config.Dataset, blocks: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.timesteps = network.timesteps
        if dataset.events:
            self.sample = (network.timesteps, dataset.channels)
        self.taps = tuple(f"block{index}" for index in range(1, len(blocks) + 1))
        self.stem = _stem(network, dataset)
        self.embedding = nn.Sequential(_conv(network.dim, network.dim), nn.BatchNorm2d(network.dim))
        for tap, block in zip(self.taps, blocks):
            self.add_module(tap, block)
        self.head = nn.Linear(network.dim, dataset.classes)
        initialise_linear(self.head)

    @abc.abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Turn the spikes of the stem into the tokens that the first block takes, both (T*B, D, h, w)."""

    def mac_layers(self) -> dict[str, int]:
        """Return the stem, counted for T copies of an image, and the head, whose inputs are means, not spikes."""
        return {"stem.0.0": self.timesteps, self.last_layer: 1}

    def attentions(self) -> dict[str, Attended]:
        """Return the attention of every block."""
        return attentions(self)

    def enter(self, x: Tensor) -> Tensor:
        """Return the tokens that the first block takes, (T*B, D, h, w)."""
        return self.embed(self.stem(x))

    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return the stages of the tokenizer and the blocks."""
        return [(part, "forward") for part in (*self.stem, *map(self.layer, self.taps))]


class Attention(nn.Module):
    """Spiking self-attention: from the common input of q, k and v to currents, both (T*B, D, h, w).

    `qkv_neuron` returns (T*B, 3 D, h, w), the spikes of q, k and v; `attention_neuron` returns (T*B, D, h, w). One
    projection to 3 D channels computes the same as three projections to D.
    """

    def __init__(self, network: config.SpikingTransformer, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.spiking = network.heads, network.spiking
        self.qkv = projection(network.dim, 3 * network.dim, bias=qkv_bias)
        self.qkv_neuron = neuron(network)
        softmax = functional.scaled_dot_product_attention
        self.mix = partial(attend, scale=network.attention_scale) if network.spiking else softmax
        self.attention_neuron = neuron(network, v_threshold=network.attention_threshold)
        self.project = projection(network.dim, network.dim)

    def attended(self) -> Attended:
        """Return the neurons of q, k and v, each a third of one layer, and of attention."""
        shared = {name: (self.qkv_neuron, index) for index, name in enumerate("qkv")}
        return Attended(self, {**shared, "attention": (self.attention_neuron, None)}, self.heads, self.spiking)

    def forward(self, x: Tensor) -> Tensor:
        """Return currents (T*B, D, h, w)."""
        spikes = self.qkv_neuron(self.qkv(x)).flatten(2)
        q, k, v = spikes.unflatten(1, (3, self.heads, -1)).mT.unbind(1)  # T*B, heads, N, d
        mixed = self.mix(q, k, v).transpose(1, 2).flatten(2)  # T*B, N, D
        return self.project(self.attention_neuron(mixed.mT.reshape(x.shape)))


def attentions(network: Network) -> dict[str, Attended]:
    """Return the attention of every tap; each tap of the network must be a block with an attention."""
    found = {tap: network.layer(tap).attention for tap in network.taps}
    return {tap: one.attended() for tap, one in found.items()}  # type: ignore[operator,union-attr]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return scale q k^T v of q, k, v (..., N, d): attention without softmax (Spikformer, Zhou et al., ICLR 2023).

    The product is associative. It takes 2 N^2 d multiplications if q k^T is computed first and 2 N d^2 if k^T v is; the
    cheaper order is used (D-067).
    """
    if left_first(*q.shape[-2:]):
        return (q @ k.mT * scale) @ v
    return q @ (k.mT @ v * scale)


def left_first(tokens: int, width: int) -> bool:
    """Return whether `attend` computes q k^T first, for N tokens and d channels per head."""
    return tokens < width


class StillNorm(nn.BatchNorm2d):
    """Batch norm of images (B, C, h, w) that behaves as if each were repeated T = `timesteps` times (D-068).

    The references do repeat them. That changes neither the mean nor the biased variance of a batch, but it does change
    the running variance, which is unbiased: n / (n - 1) times the biased one, with n = T B h w instead of B h w.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, timesteps: int) -> None:
        super().__init__(channels)
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised (B, C, h, w)."""
        if not self.training:
            return super().forward(x)
        # Autograd saves the tensors to which the statistics are written, so they must not be the running ones.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normalised = functional.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        samples = x.numel() // x.shape[1]
        repeated = variance * (self.timesteps * (samples - 1) / (self.timesteps * samples - 1))
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(repeated, self.momentum)
        self.num_batches_tracked.add_(1)
        return normalised


def mlp(network: config.SpikingTransformer) -> nn.Sequential:
    """Return the layers of an MLP, from its input to the currents of its second projection, both (T*B, D, h, w)."""
    hidden = network.mlp_ratio * network.dim
    return nn.Sequential(projection(network.dim, hidden), neuron(network), projection(hidden, network.dim))


def projection(inputs: int, outputs: int, bias: bool = True) -> nn.Sequential:
    """Return a linear layer over tokens and its norm: (T*B, inputs, h, w) to (T*B, outputs, h, w)."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=bias), nn.BatchNorm2d(outputs))


def neuron(network: config.SpikingTransformer, static: bool = False, **changes: float) -> nn.Module:
    """Return a layer of the network's neurons with `changes` to their spec, or a ReLU in form `ann`."""
    if network.neuron is None:
        return nn.ReLU()
    return Spiking(network.neuron.model_copy(update=changes), network.timesteps, static)


def initialise_linear(module: nn.Module) -> None:
    """Initialise a linear layer, or a 1x1 convolution in its role, as the references do."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.get_parameter("bias"))


def _stem(network: config.SpikingTransformer, dataset: config.Dataset) -> nn.Sequential:
    """Four stages that turn images (B, 3, H, W), or folded frames (T*B, 2, H, W), into spikes (T*B, D, h, w)."""
    widths = (dataset.channels, network.dim // 8, network.dim // 4, network.dim // 2, network.dim)
    stages = enumerate(pairwise(widths), start=1)
    return nn.Sequential(*(_stage(network, index, *pair, index == 1 and not dataset.events) for index, pair in stages))


def _stage(network: config.SpikingTransformer, index: int, inputs: int, outputs: int, still: bool) -> nn.Sequential:
    """Convolution, norm, neuron; with CML the pool precedes the neuron, else it follows. `still`: for still images."""
    norm = StillNorm(outputs, network.timesteps) if still else nn.BatchNorm2d(outputs)
    layers = [_conv(inputs, outputs), norm, neuron(network, static=still)]
    if index in network.pools:
        layers.insert(2 if network.cml else 3, nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
