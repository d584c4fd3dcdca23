"""What every network returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Logits of every time-step and the feature maps that were asked for.

    `logits` is (T, B, K) with T = 1 for an ANN; `features` maps a tap such as `stage4` to (T, B, C, h, w).
    """

    logits: Tensor
    features: dict[str, Tensor]
