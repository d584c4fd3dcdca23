"""Wide-7B-Net (Fang et al., NeurIPS 2021) for frames of events: SEW blocks and poolings, as the authors' code has them.

    layers (numbers: defaults)  map           width      what they are
    stem                        1             widths[0]  1x1 convolution of the frames
    unit1 .. unit4              1 .. 1/8      64         a SEW block each, and a max pooling behind it
    unit5 .. unit7              1/16 .. 1/64  128        the same; a 1x1 convolution before it where the width changes
    head                        1/128         128        linear, on what is left of the map, flattened

Each convolution has no bias and is followed by a norm and neurons.

Shapes: T time-steps, B recordings, C channels, h w pixels, K classes. Activations are folded, (T*B, C, h, w),
time-major, and norms normalise over T*B samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

from bkdsnn import config
from bkdsnn.models.folded import Folded
from bkdsnn.models.neurons import Spiking


class Wide7B(Folded):
    """Stem, units `unit1` .. `unitN`, linear head.

    `taps` names the outputs of the units, before the pooling that follows each; the last is the feature before the
    last layer (D-097). The authors' code averages over time before the head, here the logits are averaged: the result
    is the same, because the head is linear.
    """

    last_layer = "head"

    def __init__(self, network: config.Wide7B, dataset: config.Dataset) -> None:
        super().__init__()
        self.timesteps = network.timesteps
        self.sample = (network.timesteps, dataset.channels)
        self.taps = tuple(f"unit{index}" for index in range(1, len(network.widths) + 1))
        self.stem = Layer(network, dataset.channels, network.widths[0], 1)
        for tap, (inputs, width) in zip(self.taps, pairwise((network.widths[0], *network.widths))):
            self.add_module(tap, Unit(network, inputs, width))
        self.pool = nn.MaxPool2d(2)
        side = dataset.image_size >> len(network.widths)
        self.head = nn.Linear(network.widths[-1] * side**2, dataset.classes)

    def mac_layers(self) -> dict[str, int]:
        """Return the stem, counted T times because its input are T frames."""
        return {"stem.0": self.timesteps}

    def enter(self, x: Tensor) -> Tensor:
        """Return spikes (T*B, C, H, W) of folded frames (T*B, 2, H, W)."""
        spikes: Tensor = self.stem(x)
        return spikes

    def chain(self) -> Iterable[tuple[str, nn.Module]]:
        """Return the units, each followed by its pooling."""
        return [step for tap in self.taps for step in ((tap, self.layer(tap)), ("pool", self.pool))]

    def pooled(self, x: Tensor) -> Tensor:
        """Return the flattened map after the last pooling, (T*B, C h w)."""
        return x.flatten(1)

    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return single layers: recomputing the whole first unit, the largest, would need most of the peak memory."""
        return [(part, "forward") for part in self.modules() if isinstance(part, Layer)]


class Unit(nn.Module):
    """A SEW block of two 3x3 convolutions with a shortcut, after a 1x1 convolution if `inputs` differs from `width`.

    (T*B, inputs, h, w) to (T*B, width, h, w): small integers, sums of spikes.
    """

    def __init__(self, network: config.Wide7B, inputs: int, width: int) -> None:
        super().__init__()
        self.project = nn.Identity() if inputs == width else Layer(network, inputs, width, 1)
        self.branch = nn.Sequential(*(Layer(network, width, width, 3) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (T*B, width, h, w)."""
        x = self.project(x)
        return self.branch(x) + x


class Layer(nn.Sequential):
    """Convolution, norm and neurons: (T*B, inputs, h, w) to spikes (T*B, outputs, h, w)."""

    def __init__(self, network: config.Wide7B, inputs: int, outputs: int, kernel: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), Spiking(network.neuron, network.timesteps))
