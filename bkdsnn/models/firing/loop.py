"""Spiking neurons by torch's own operations, for every device and dtype; only H is saved for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bkdsnn import config
from bkdsnn.config.surrogates import SURROGATES
from bkdsnn.models.firing.known import Known
from bkdsnn.models.firing.levels import levels

KNOWN = Known("bkdsnn/models/firing/loop.py", ("if", "lif", "plif"), surrogates=None)


def fire(currents: Tensor, w: Tensor | None, neuron: config.Neuron, timesteps: int, static: bool) -> Tensor:
    """Return spikes (T*B, ...) of currents (T*B, ...), or (B, ...) if `static`; `w` as in `neurons.Spiking`."""
    spikes: Tensor = _Fire.apply(currents, w, neuron, timesteps, static)
    return spikes


class _Fire(torch.autograd.Function):
    """Potentials are relative to the reset potential, so that a hard reset is a product with 1 - S.

    Backward: dL/dH[t] = dL/dS[t] slope(H[t]) + dL/dH[t+1] dH[t+1]/dV[t] dV[t]/dH[t].
    """

    @staticmethod
    def forward(
        ctx: Any, currents: Tensor, w: Tensor | None, neuron: config.Neuron, timesteps: int, static: bool
    ) -> Tensor:
        x = [currents] * timesteps if static else currents.unflatten(0, (timesteps, -1))
        charged, spikes = (_folded(x[0], timesteps) for _ in range(2))
        ctx.save_for_backward(charged, w)
        ctx.neuron, ctx.timesteps, ctx.static = neuron, timesteps, static
        h, s = charged.chunk(timesteps), spikes.chunk(timesteps)
        share = None if w is None else w.sigmoid()
        h[0].fill_(levels(neuron).start)
        for t in range(timesteps):
            if t:
                _reset(h[t - 1], s[t - 1], neuron, out=h[t])
            _charge(h[t], x[t], neuron, share)
            torch.ge(h[t], levels(neuron).threshold, out=s[t])
        return spikes.to(currents.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        charged, w = ctx.saved_tensors
        neuron = ctx.neuron
        tau = neuron.tau if w is None else float(1 / w.sigmoid())
        slopes = surrogate_derivative(charged - levels(neuron).threshold, neuron)
        grad = slopes.mul_(grad_spikes) if neuron.detach_reset else slopes * grad_spikes
        g, h, slope = (tensor.chunk(ctx.timesteps) for tensor in (grad, charged, slopes))
        for t in reversed(range(ctx.timesteps - 1)):
            g[t].addcmul_(g[t + 1], _kept(h[t], slope[t], neuron), value=_leak(neuron, tau))
        grad_w = None if w is None else _grad_w(g, h, neuron, tau).to(w.dtype)
        if neuron.kind != "if" and neuron.decay_input:
            grad.div_(tau)
        if ctx.static:
            grad = grad.unflatten(0, (ctx.timesteps, -1)).sum(0)
        return grad.to(grad_spikes.dtype), grad_w, None, None, None


def _folded(step: Tensor, timesteps: int) -> Tensor:
    """Return an empty (T*B, ...) for membranes, in the memory format of one step (B, ...)."""
    shape, dtype = (timesteps * len(step), *step.shape[1:]), torch.promote_types(step.dtype, torch.float32)
    last = step.dim() == 4 and step.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=step.device, memory_format=memory_format)


def _leak(neuron: config.Neuron, tau: float) -> float:
    """dH[t]/dV[t-1]."""
    return 1.0 if neuron.kind == "if" else 1 - 1 / tau


def _charge(v: Tensor, x: Tensor, neuron: config.Neuron, share: Tensor | None) -> None:
    """Turn V[t-1] into H[t], in place; operations in spikingjelly's order, so that not even rounding differs.

    `share` is 1 / tau where it is learned.
    """
    if neuron.kind == "if":
        v.add_(x)
    elif share is not None:
        v.add_((x - v).mul_(share)) if neuron.decay_input else v.sub_(v * share).add_(x)
    elif neuron.decay_input:
        v.addcdiv_(x - v, v.new_full((), neuron.tau))
    else:
        v.addcdiv_(v, v.new_full((), neuron.tau), value=-1).add_(x)


def _reset(h: Tensor, spike: Tensor, neuron: config.Neuron, out: Tensor) -> None:
    if neuron.v_reset is None:
        torch.sub(h, spike, alpha=neuron.v_threshold, out=out)
    else:
        torch.addcmul(h, h, spike, value=-1, out=out)


def _grad_w(g: Sequence[Tensor], h: Sequence[Tensor], neuron: config.Neuron, tau: float) -> Tensor:
    """dL/dw = dL/d(1/tau) (1/tau) (1 - 1/tau), from g[t] = dL/dH[t]; each V[t-1] is recomputed from H[t-1].

    dH[t]/d(1/tau) is X[t] - V[t-1] = tau (H[t] - V[t-1]) where the input decays, else -V[t-1].
    """
    total, v = h[0].new_zeros(()), torch.full_like(h[0], levels(neuron).start)
    for t, charged in enumerate(h):
        if t:
            spike = torch.ge(h[t - 1], levels(neuron).threshold, out=torch.empty_like(v))
            _reset(h[t - 1], spike, neuron, out=v)
        total += ((charged - v) if neuron.decay_input else v / -tau).mul_(g[t]).sum()
    return total * (1 - 1 / tau)


def _kept(h: Tensor, slope: Tensor, neuron: config.Neuron) -> Tensor:
    """dV[t]/dH[t]; a detached reset passes no gradient through the spike. `slope` is dS[t]/dH[t]."""
    if neuron.v_reset is None:
        return torch.ones_like(h) if neuron.detach_reset else 1 - neuron.v_threshold * slope
    silent = torch.lt(h, levels(neuron).threshold, out=torch.empty_like(h))
    return silent if neuron.detach_reset else silent.addcmul_(h, slope, value=-1)


def surrogate_derivative(u: Tensor, neuron: config.Neuron) -> Tensor:
    """Return the derivative of the neuron's surrogate at u = H - v_threshold, of any shape, which it may overwrite."""
    return SURROGATES[neuron.surrogate](u, neuron.alpha)
