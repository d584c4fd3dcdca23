"""Training in less memory: activations that are computed again instead of kept (Chen et al., 2016).

A network names its segments. Of each only the input is kept until the backward pass comes to it and computes the rest
again: the same numbers in the same order, so that loss, gradients and statistics are the same bits, for one more
forward pass in time. Networks draw no random numbers, so none are kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from bkdsnn.core.errors import UserError
from bkdsnn.models.norms import with_statistics
from bkdsnn.models.outputs import Network


def recompute(network: Network) -> None:
    """Have a network keep the inputs of its segments alone, wherever gradients are wanted.

    Hooks on a segment's module see it called once a step, those on modules within it twice. Raises `UserError` for a
    module that would count a batch twice in its statistics, since it is not one of torch's norms.
    """
    for module, method in network.segments():
        norms = [_norm(name, part) for name, part in with_statistics(module)]
        setattr(module, method, functools.partial(_lean, getattr(module, method), norms))


def _norm(name: str, module: nn.Module) -> _NormBase:
    if not isinstance(module, _NormBase):
        raise UserError(
            f"'{name}' keeps statistics and is a {type(module).__name__}, whose second pass cannot leave them as they "
            "are; have it inherit from one of torch's batch norms, or train without recomputation"
        )
    return module


def _lean(method: Callable[[Tensor], Tensor], norms: Sequence[_NormBase], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return method(x)
    passes = functools.partial(_passes, norms)
    kept: Tensor = checkpoint(method, x, use_reentrant=False, preserve_rng_state=False, context_fn=passes)
    return kept


def _passes(
    norms: Sequence[_NormBase],
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Return what surrounds the first pass and the second."""
    return contextlib.nullcontext(), _counted(norms)


@contextlib.contextmanager
def _counted(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Let norms normalise by a batch that their statistics have already.

    They get copies of these, and no share in them for the batch: a `PaddedNorm` reads them after it has added to them.
    """
    before = [(norm, norm.momentum, dict(norm.named_buffers())) for norm in norms]
    for norm, _, buffers in before:
        _set(norm, 0.0, {name: buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, momentum, buffers in before:
            _set(norm, momentum, buffers)


def _set(norm: _NormBase, momentum: float | None, buffers: dict[str, Tensor]) -> None:
    norm.momentum = momentum
    for name, buffer in buffers.items():
        setattr(norm, name, buffer)
