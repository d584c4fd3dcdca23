"""Training in less memory: activations are recomputed instead of stored (Chen et al., 2016).

A network lists its segments. Only the input of each is stored; when the backward pass reaches a segment, its
activations are recomputed by the same operations in the same order, so that loss, gradients and statistics are equal
bit by bit. This costs the time of one more forward pass. Networks draw no random numbers, so no generator state is
stored.
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
    """Make a network store only the inputs of its segments, whenever gradients are enabled.

    Hooks on a segment's own module are called once per step, hooks on modules within it twice. Raises `UserError` for a
    module that keeps statistics but is not one of torch's norms, since it would count each batch twice.
    """
    for module, method in network.segments():
        norms = [_norm(name, part) for name, part in with_statistics(module)]
        setattr(module, method, functools.partial(_lean, getattr(module, method), norms))


def _norm(name: str, module: nn.Module) -> _NormBase:
    if not isinstance(module, _NormBase):
        raise UserError(
            f"module '{name}' is a {type(module).__name__}, whose running statistics recomputation would update twice; "
            "derive it from one of torch's batch norms, or train without recomputation"
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
    """Return the contexts in which the first pass and the recomputation run."""
    return contextlib.nullcontext(), _counted(norms)


@contextlib.contextmanager
def _counted(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Let norms process a batch again without counting it again in their running statistics.

    They get copies of their statistics, and momentum 0. The copies are those after the first pass, because the forward
    pass of a `PaddedNorm` reads its statistics after the batch has updated them.
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
