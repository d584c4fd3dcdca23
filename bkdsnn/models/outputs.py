"""What every network is and returns."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bkdsnn.core.errors import UserError, unknown


class Outputs(NamedTuple):
    """Logits of every time-step, and what distillation compares; T = 1 for an ANN.

    `logits` is (T, B, K); `features` maps a tap such as `stage4` to (T, B, C, h, w); `pooled` is the vector (T, B, C)
    that the last feature is reduced to before the head, (T, B, C h w) where a pooled map is flattened; `distilled`
    holds the logits (T, B, K) of a second head that imitates a teacher, None in evaluation and for networks without
    one.
    """

    logits: Tensor
    features: dict[str, Tensor]
    pooled: Tensor
    distilled: Tensor | None = None


class Attended(NamedTuple):
    """One self-attention: its module, its layers, its heads, and whether it is one of spikes, without softmax.

    `layers` are those that give q, k, v and, of spikes, `attention`, each with the third of its channels where q, k and
    v share one.
    """

    module: nn.Module
    layers: dict[str, tuple[nn.Module, int | None]]
    heads: int
    spiking: bool


class Network(nn.Module, abc.ABC):
    """A classifier of images (B, 3, H, W), or of frames (B, T, 2, H, W) of events, their counts as floats.

    `taps` names the features it can return, the last of them the one before the last layer. What is abstract here a
    family must state, or it cannot be built; what is not, it states where the answer below is not its own.
    """

    timesteps: int = 1
    sample: tuple[int, ...] = (3,)
    """What stands before H and W in one sample: (3,) for images, (T, 2) for frames."""
    taps: tuple[str, ...]
    last_layer: str
    """Name of the submodule that gives the logits."""

    @abc.abstractmethod
    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return the outputs, with the features of `taps`; a tap that there is not raises `UserError`."""

    @abc.abstractmethod
    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return modules, each with the name of a method that maps one tensor to one, and is called once a pass.

        Together they keep most of what the backward pass needs; `recomputation.recompute` has them keep less.
        """

    @abc.abstractmethod
    def mac_layers(self) -> dict[str, int]:
        """Return the layers that are fed with no spikes, and how often the paper's counting has each for one image.

        By name of the module; all their operations are multiply-accumulates, FLOPS(1) of Eq. A5. The stem counts once
        or T times, as the family's published code runs it. Of an ANN all layers count once, whatever stands here.
        """

    def attentions(self) -> dict[str, Attended]:
        """Return the self-attentions by the tap that they lie in; none."""
        return {}

    def uncounted(self) -> Sequence[nn.Module]:
        """Return modules with weights of their own that the counting of operations leaves out; none."""
        return ()

    def layer(self, tap: str) -> nn.Module:
        """Return the module whose output (T*B, C, h, w), time-major, is that tap; an unknown one raises `UserError`."""
        self.check_taps([tap])
        return self.get_submodule(tap)

    def seen(self, tap: str) -> nn.Module:
        """Return the module that Grad-CAM looks at for that tap: that of the tap."""
        return self.layer(tap)

    def as_map(self, output: Tensor) -> Tensor:
        """Return (B, C, h, w), averaged over time, of the output of a module that is `seen`, or of its gradient."""
        return self.unfold(output).mean(0)

    def unfold(self, x: Tensor) -> Tensor:
        """Return (T, B, ...) of folded activations (T*B, ...)."""
        return x.unflatten(0, (self.timesteps, -1))

    def blank(self, size: int) -> Tensor:
        """Return one blank sample to call the network with: an image (1, 3, size, size), or frames of no events."""
        return next(self.parameters()).new_zeros(1, *self.sample, size, size)

    def fold(self, images: Tensor) -> Tensor:
        """Return frames (B, T, 2, H, W) as (T*B, 2, H, W), time-major, and images as they are, both channels last.

        Training is then about 1.4 times faster on a CPU, and tokens (N, C) need no copy. Raises `UserError` for frames
        of another T than the network's.
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
