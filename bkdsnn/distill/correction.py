"""Measure the correction term of Eq. A3: both losses' gradients with respect to the feature before the last layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bkdsnn.config import RunSpec
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.models import Network
from bkdsnn.runs.checkpoint import Position

STEP = 16.0  # a power of two, so that dividing a scale by it is exact


class Correction:
    """Gradients dL_task/dF and delta = dL_BKD/dF, with F (T*B, C, h, w) the output of the layer of the last tap.

    They are measured once per epoch, in its first step (D-175), and kept in the run's `Position` until the epoch is
    recorded. Only runs with the term `bkd` are measured.
    """

    def __init__(self, spec: RunSpec, student: Network, group: Group = ALONE) -> None:
        self.group, self.student = group, student
        self.task = spec.loss.method
        self.applies = any(term.method == "bkd" for term in spec.distill)
        self.feature: Tensor | None = None

    @contextlib.contextmanager
    def watching(self, at: Position) -> Iterator[None]:
        """Keep F of the forward pass inside this context, if the current step is to be measured.

        A hook is needed because the features in `Outputs` are views of F that the task loss does not depend on.
        """
        if not self.applies or at.step:
            yield
            return
        with self.student.layer(self.student.taps[-1]).register_forward_hook(self._keep):
            yield

    def measure(self, at: Position, losses: dict[str, Tensor], scaler: torch.amp.GradScaler) -> None:
        """Measure both gradients if F was kept; to be called before the backward pass, whose graph is retained.

        `losses` are 0-dim and weighted, as they enter the total loss.
        """
        if self.feature is not None:
            scale = scaler.get_scale()
            own = (gradient(losses[name], self.feature, scale) for name in (self.task, "bkd"))
            task, bkd = (self.group.gathered(part) / self.group.size for part in own)  # losses are means over the rows
            at.gradients = {"task": rms(task), "bkd": rms(bkd), "cosine": cosine(task, bkd)}
            self.feature = None

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.feature = output


def gradient(loss: Tensor, feature: Tensor, scale: float) -> Tensor:
    """Return dloss/dfeature in float32, and retain the graph.

    Under autocast a feature and its gradient may be float16, in which values below 6e-8 underflow to zero. The loss is
    therefore multiplied by `scale` and the gradient divided by it; if the gradient overflows, the scale is lowered.
    """
    while True:
        (scaled,) = torch.autograd.grad(loss * scale, feature, retain_graph=True)
        if scale <= 1 or scaled.isfinite().all():
            return scaled.float() / scale
        scale /= STEP


def rms(gradient: Tensor) -> float:
    """Return the root of the mean square over all entries."""
    return float(gradient.square().mean().sqrt())


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two gradients; 0 where one of them is zero and has no direction."""
    lengths = [torch.linalg.vector_norm(gradient) for gradient in (one, other)]
    if not all(lengths):
        return 0.0
    return float(((one / lengths[0]) * (other / lengths[1])).sum().clamp(-1, 1))
