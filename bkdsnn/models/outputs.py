"""The interface of all networks, and the outputs that they return."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bkdsnn.core.errors import UserError, unknown


class Outputs(NamedTuple):
    """Logits of every time-step, and the features that distillation compares; T = 1 for an ANN.

    `logits` is (T, B, K). `features` maps a tap such as `stage4` to (T, B, C, h, w). `pooled` is the vector (T, B, C)
    to which the last feature is reduced before the head, or (T, B, C h w) if the network flattens its last map.
    `distilled` holds the logits (T, B, K) of a second head that learns the teacher's decisions; it is None in
    evaluation and for networks with one head.
    """

    logits: Tensor
    features: dict[str, Tensor]
    pooled: Tensor
    distilled: Tensor | None = None


class Attended(NamedTuple):
    """One self-attention: its module, layers and number of heads; `spiking` if q, k, v are spikes, without softmax.

    `layers` maps `q`, `k`, `v` and, if spiking, `attention` to the layer that outputs it, with None, or, if one layer
    outputs q, k and v together, with the index (0 to 2) of the third of its channels.
    """

    module: nn.Module
    layers: dict[str, tuple[nn.Module, int | None]]
    heads: int
    spiking: bool


class Network(nn.Module, abc.ABC):
    """A classifier of images (B, 3, H, W), or of frames (B, T, 2, H, W) of events, their counts as floats.

    `sample` is the shape of one sample without H and W: (3,) for images, (T, 2) for frames. `taps` names the features
    that it can return, the last of them the one before the last layer, and `last_layer` the submodule that returns the
    logits. Every family of networks implements the abstract methods, and overrides another method if its default does
    not hold for the family.
    """

    timesteps: int = 1
    sample: tuple[int, ...] = (3,)
    taps: tuple[str, ...]
    last_layer: str

    @abc.abstractmethod
    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return the outputs, with the features of `taps`; an unknown tap raises `UserError`."""

    @abc.abstractmethod
    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return modules, each with the name of a method that maps one tensor to one and is called once per pass.

        Together they store most of the activations that the backward pass needs. `recomputation.recompute` makes them
        store only their inputs.
        """

    @abc.abstractmethod
    def mac_layers(self) -> dict[str, int]:
        """Return the layers whose inputs are not spikes, by module name, and how often each is counted per image.

        All their operations are multiply-accumulates, FLOPS(1) of Eq. A5. The stem counts once or T times, as often as
        the family's published code runs it. In an ANN every layer counts once, regardless of this method.
        """

    def attentions(self) -> dict[str, Attended]:
        """Return the self-attentions by the tap of their block; by default none."""
        return {}

    def uncounted(self) -> Sequence[nn.Module]:
        """Return the modules with own weights that the counting of operations leaves out; by default none."""
        return ()

    def layer(self, tap: str) -> nn.Module:
        """Return the module whose output is the tap, (T*B, C, h, w), time-major; an unknown tap raises `UserError`."""
        self.check_taps([tap])
        return self.get_submodule(tap)

    def gradcam_layer(self, tap: str) -> nn.Module:
        """Return the module whose output Grad-CAM uses for a tap: by default the tap's own."""
        return self.layer(tap)

    def as_map(self, output: Tensor) -> Tensor:
        """Average the output of a module that `gradcam_layer` returned, or its gradient, over time to (B, C, h, w)."""
        return self.unfold(output).mean(0)

    def unfold(self, x: Tensor) -> Tensor:
        """Return (T, B, ...) of folded activations (T*B, ...)."""
        return x.unflatten(0, (self.timesteps, -1))

    def blank(self, size: int) -> Tensor:
        """Return a sample of zeros to call the network with: an image (1, 3, size, size), or frames without events."""
        return next(self.parameters()).new_zeros(1, *self.sample, size, size)

    def fold(self, images: Tensor) -> Tensor:
        """Return frames (B, T, 2, H, W) as (T*B, 2, H, W), time-major, and images in their shape, both channels last.

        In that memory format training is about 1.4 times faster on a CPU, and maps become tokens (N, C) without a copy.
        Raises `UserError` for frames whose T is not the network's.
        """
        if len(self.sample) == 1:
            return images.contiguous(memory_format=torch.channels_last)
        if images.shape[1:-2] != self.sample:
            raise UserError(
                f"the network runs {self.sample[0]} time-steps ('timesteps') and takes frames (B, T, 2, H, W) with "
                f"that T, found {tuple(images.shape)}; integrate the recordings to {self.sample[0]} frames"
            )
        return images.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def check_taps(self, taps: Sequence[str]) -> None:
        """Raise `UserError` for a tap that the network does not have."""
        for tap in set(taps) - set(self.taps):
            raise unknown("tap", tap, self.taps)
