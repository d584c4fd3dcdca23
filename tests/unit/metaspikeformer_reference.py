"""Meta-SpikeFormer from spikingjelly's neurons and torch's layers, over all time-steps at once: what ours must equal.

Shapes are (T, B, C, h, w); modules stand in the order of ours, so that weights pass from one to the other by position.
"""

import torch
from spikingjelly.activation_based import neuron as sj
from spikingjelly.activation_based import surrogate
from torch import nn

from bkdsnn import config

LIF = config.Neuron(kind="lif", surrogate="sigmoid", alpha=4.0)
EAGER = LIF.model_copy(update={"v_threshold": 0.25})  # fires often enough for every branch of a tiny network to matter


class EveryStep(nn.Sequential):
    """Layers without time, applied to (T, B, ...)."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ReferencePaddedNorm(nn.BatchNorm2d):
    """An image of what the norm makes of zero in evaluation, overwritten inside."""

    def forward(self, x):
        inner = super().forward(x)
        zero = torch.zeros(1, x.shape[1], 1, 1, dtype=x.dtype)
        value = nn.functional.batch_norm(zero, self.running_mean, self.running_var, self.weight, self.bias)
        padded = value.detach().repeat(len(x), 1, x.shape[2] + 2, x.shape[3] + 2)
        padded[:, :, 1:-1, 1:-1] = inner
        return padded


def lif(v_threshold=EAGER.v_threshold):
    slope = surrogate.Sigmoid(4.0)
    return sj.LIFNode(2.0, True, v_threshold, 0.0, surrogate_function=slope, detach_reset=True, step_mode="m")


def conv(inputs, outputs, kernel, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias), nn.BatchNorm2d(outputs)


def mlp(width, hidden, kernel, bias):
    narrow = EveryStep(*conv(hidden, width, kernel, bias=bias))
    return nn.Sequential(lif(), EveryStep(*conv(width, hidden, kernel, bias=bias)), lif(), narrow)


def linear_map(width):
    depthwise = nn.Conv2d(width, width, 3, groups=width, bias=False)
    first = nn.Conv2d(width, width, 1, bias=False)
    return EveryStep(first, ReferencePaddedNorm(width), depthwise, *conv(width, width, 1), nn.BatchNorm2d(width))


class ReferenceConvBlock(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        depthwise = nn.Conv2d(2 * width, 2 * width, 7, padding=3, groups=2 * width, bias=False)
        widen, narrow = EveryStep(*conv(width, 2 * width, 1)), EveryStep(depthwise, *conv(2 * width, width, 1))
        self.separable = nn.Sequential(lif(), widen, lif(), narrow)
        self.channels = mlp(width, ratio * width, 3, bias=False)

    def forward(self, x):
        x = x + self.separable(x)
        return x + self.channels(x)


class ReferenceAttentionBlock(nn.Module):
    def __init__(self, width, network):
        super().__init__()
        self.heads, self.scale = network.heads, network.attention_scale
        self.neuron, self.fired = lif(), lif(network.attention_threshold)
        self.neurons = nn.ModuleList(lif() for _ in "qkv")
        self.q, self.k, self.v, self.project = (linear_map(width) for _ in range(4))
        self.mlp = mlp(width, network.mlp_ratio * width, 1, bias=True)

    def attended(self, x):
        """Per image, head, pair of tokens: no product is taken in another order."""
        spikes = self.neuron(x)
        maps = [fire(layer(spikes)) for fire, layer in zip(self.neurons, (self.q, self.k, self.v))]
        q, k, v = (m.unflatten(2, (self.heads, -1)).flatten(4) for m in maps)  # T B heads d tokens
        mixed = torch.einsum("tbhdn,tbhdm,tbhem->tbhen", q, k, v) * self.scale
        return self.project(self.fired(mixed.flatten(2, 3).view_as(x)))

    def forward(self, x):
        x = x + self.attended(x)
        return x + self.mlp(x)


class Reference(nn.Module):
    """The image is repeated at once, and every layer sees all time-steps."""

    def __init__(self, network, classes):
        super().__init__()
        widths = (network.dims[0] // 2, *network.dims)
        self.timesteps = network.timesteps
        self.layers = nn.ModuleList([EveryStep(*conv(3, widths[0], 7, stride=2, bias=True))])
        for stage, depth in enumerate((*network.conv_blocks, *network.attention_blocks)):
            if stage:
                down = conv(widths[stage - 1], widths[stage], 3, (2, 2, 2, 1)[stage - 1], bias=True)
                self.layers.append(nn.Sequential(lif(), EveryStep(*down)))
            for _ in range(depth):
                width = widths[stage]
                attention = stage > 2
                block = ReferenceAttentionBlock(width, network) if attention else ReferenceConvBlock(width, 4)
                self.layers.append(block)
        self.neuron = lif()
        self.head, self.distilled = (nn.Linear(widths[-1], classes) for _ in range(2))

    def forward(self, images):
        x = images.repeat(self.timesteps, 1, 1, 1, 1)
        features = []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, ReferenceAttentionBlock):
                features.append(x)
        spikes = self.neuron(x.mean((-2, -1)))
        return self.head(spikes), self.distilled(spikes), features
