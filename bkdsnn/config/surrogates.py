"""Surrogate gradients: functions that replace the derivative of a spike by the membrane potential in the backward pass.

Each takes u = H - v_threshold, a tensor of any shape that it may overwrite, and the neuron's `alpha`, and returns a
tensor of the same shape; as a function of u it is even and its integral is 1. To add a surrogate, add an entry here;
neurons with it then run on torch's operations. Use methods of tensors, because nothing here may import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bkdsnn.core.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor


def atan(u: Tensor, alpha: float) -> Tensor:
    """Return alpha / (2 (1 + (pi alpha u / 2)^2))."""
    return u.new_full((), 2 / alpha).addcmul(u, u, value=math.pi**2 * alpha / 2).reciprocal_()


def sigmoid(u: Tensor, alpha: float) -> Tensor:
    """Return alpha s (1 - s) of the sigmoid s at alpha u."""
    u.mul_(alpha).sigmoid_()
    return u.addcmul_(u, u, value=-1).mul_(alpha)


def triangle(u: Tensor, alpha: float) -> Tensor:
    """Return alpha - alpha^2 |u| where that is positive, else 0."""
    return u.abs_().mul_(-alpha * alpha).add_(alpha).clamp_min_(0)


def rectangle(u: Tensor, alpha: float) -> Tensor:
    """Return 1 / alpha where |u| < alpha / 2, else 0."""
    return u.abs_().lt_(alpha / 2).div_(alpha)


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "atan": atan,
    "sigmoid": sigmoid,
    "triangle": triangle,
    "rectangle": rectangle,
}


def known_surrogate(name: str) -> str:
    """Return the name if it is that of a surrogate; raise ValueError otherwise."""
    if name not in SURROGATES:
        raise ValueError(str(unknown("surrogate", name, SURROGATES)))
    return name
