"""What every network is and returns."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from bkdsnn.errors import unknown


class Outputs(NamedTuple):
    """Logits of every time-step, and what distillation compares; T = 1 for an ANN.

    `logits` is (T, B, K); `features` maps a tap such as `stage4` to (T, B, C, h, w); `pooled` is the vector (T, B, C)
    that the last feature is reduced to before the head; `distilled` holds the logits (T, B, K) of a second head that
    imitates a teacher, None in evaluation and for networks without one.
    """

    logits: Tensor
    features: dict[str, Tensor]
    pooled: Tensor
    distilled: Tensor | None = None


class Network(nn.Module, abc.ABC):
    """A classifier of images (B, 3, H, W); `taps` names the features it can return, the last before the last layer."""

    taps: tuple[str, ...]
    last_layer: str
    """Name of the submodule that gives the logits."""

    @abc.abstractmethod
    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return the outputs, with the features of `taps`; a tap that there is not raises `UserError`."""

    def check_taps(self, taps: Sequence[str]) -> None:
        """Raise `UserError` for a tap that the network does not have."""
        for tap in set(taps) - set(self.taps):
            raise unknown("tap", tap, self.taps)
