"""Batch norm over the global batch, the batches of all processes together (Ioffe & Szegedy, 2015).

torch's own SyncBatchNorm does not support CPU tensors and so could not be tested there; this one runs on every device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bkdsnn.core.errors import UserError
from bkdsnn.machine.distributed import Group
from bkdsnn.models.metaspikeformer import PaddedNorm
from bkdsnn.models.norms import with_statistics
from bkdsnn.models.transformer import StillNorm

PLACES = (0, 2, 3)  # of (B, C, h, w): all but the channels


class SyncedNorm(nn.BatchNorm2d):
    """Batch norm of (B, C, h, w) over the batches of all processes in `group`, which must have equal sizes."""

    group: Group
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised (B, C, h, w)."""
        if not self.training:
            return nn.BatchNorm2d.forward(self, x)
        samples = self.group.size * x.numel() // x.shape[1]
        normalised, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps, self.group)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * self.unbiased(samples), self.momentum)
        self.num_batches_tracked.add_(1)
        return normalised

    def unbiased(self, samples: int) -> float:
        """Return the factor from the biased variance of `samples` samples to the unbiased running variance."""
        return samples / (samples - 1)


class SyncedStillNorm(SyncedNorm):
    """A `StillNorm` over the batches of several processes."""

    timesteps: int

    def unbiased(self, samples: int) -> float:
        """Return the factor for `samples` samples that are each repeated `timesteps` times."""
        return self.timesteps * samples / (self.timesteps * samples - 1)


class SyncedPaddedNorm(PaddedNorm, SyncedNorm):
    """A `PaddedNorm` over the batches of several processes: a `SyncedNorm` with a border around its output."""


SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SyncedNorm,
    StillNorm: SyncedStillNorm,
    PaddedNorm: SyncedPaddedNorm,
}


def synchronise(network: nn.Module, group: Group) -> None:
    """Make the batch norms of a network compute their statistics over the batches of all processes.

    Raises `UserError` for a module that keeps statistics and has no synchronised form in `SYNCED`.
    """
    for name, module in with_statistics(network):
        kind = type(module)
        if kind not in SYNCED:
            raise UserError(
                f"module '{name}' of the network is a {kind.__name__}, which keeps statistics of its own process's "
                "batches; add its synchronised form to SYNCED in bkdsnn/models/synced.py, or set 'sync_batch_norm: "
                "false' in the recipe"
            )
        module.__class__ = SYNCED[kind]
        module.group = group  # type: ignore[assignment]


class _Normalised(torch.autograd.Function):
    """Normalised (B, C, h, w), with mean and biased variance (C) of the global batch; each pass communicates once.

    Backward: dL/dx = w / sigma (dL/dy - mean(dL/dy) - x^ mean(dL/dy x^)), where x^ is the normalised x, means are over
    the global batch, and L is the sum of all processes' losses. Gradients of weight and bias are this process's share.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        own = torch.stack(torch.var_mean(exact, PLACES, correction=0))
        variances, means = group.gathered(own[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance)
        slope = (weight * scale)[:, None, None]
        return ((exact - mean[:, None, None]) * slope + bias[:, None, None]).to(x.dtype), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, scale = ctx.saved_tensors
        exact = grad.to(mean.dtype)
        unit = (x.to(mean.dtype) - mean[:, None, None]) * scale[:, None, None]
        sums = torch.stack([exact.sum(PLACES), (exact * unit).sum(PLACES)])
        level, tilt = (ctx.group.total(sums) / (ctx.group.size * x.numel() // x.shape[1]))[:, :, None, None]
        grad_x = (exact - level - unit * tilt) * (weight * scale)[:, None, None]
        return grad_x.to(grad.dtype), sums[1].to(weight.dtype), sums[0].to(weight.dtype), None, None
