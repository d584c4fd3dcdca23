"""Wide-7B-Net (Fang et al., NeurIPS 2021) for frames of events: SEW blocks and poolings, as the authors' code has them.

    layers (numbers: defaults)  map           width      what they are
    stem                        1             widths[0]  1x1 convolution of the frames
    unit1 .. unit4              1 .. 1/8      64         a SEW block each, and a max pooling behind it
    unit5 .. unit7              1/16 .. 1/64  128        the same; a 1x1 convolution before it where the width changes
    head                        1/128         128        linear, on what is left of the map, flattened

A convolution here is one without bias, its norm and its neurons.

Shapes: T time-steps, B recordings, C channels, h w pixels, K classes. Everything is folded, (T*B, C, h, w), time-major,
and norms see T*B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from bkdsnn import config
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.outputs import Network, Outputs


class Wide7B(Network):
    """Stem, units `unit1` .. `unitN`, linear head.

    `taps` names the outputs of the units, before the pooling that follows each; the last is the feature before the
    last layer. The mean over time of the logits is the head of the mean, as in the authors' code: both are linear.
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
        side = dataset.image_size >> len(network.widths)
        self.head = nn.Linear(network.widths[-1] * side**2, dataset.classes)

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return logits (T, B, K) and, for each tap, features (T, B, C, h, w) of frames (B, T, 2, H, W).

        `pooled` is the flattened map after the last pooling, (T, B, C h w).

        Raises:
            UserError: a tap that the network does not have, or another number of frames than of time-steps.
        """
        self.check_taps(taps)
        x = self.stem(self.fold(images))
        features = {}
        for tap in self.taps:
            x = self.layer(tap)(x)
            if tap in taps:
                features[tap] = self._unfold(x)
            x = functional.max_pool2d(x, 2)
        pooled = x.flatten(1)
        return Outputs(self._unfold(self.head(pooled)), features, self._unfold(pooled))

    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return the layers: the first unit is most of the network, and would be most of its peak computed again."""
        return [(part, "forward") for part in self.modules() if isinstance(part, Layer)]

    def _unfold(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.timesteps, -1))


class Unit(nn.Module):
    """A SEW block, its two 3x3 convolutions added to its input; a 1x1 convolution before it if `width` is another.

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
