"""Find the modules that keep batch statistics, which training on several processes and recomputation must handle."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def with_statistics(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of all batch norms, and of all others that keep running statistics as torch's norms do."""
    for name, module in network.named_modules():
        buffers = dict(module.named_buffers(recurse=False))
        if isinstance(module, _BatchNorm) or any(key.startswith("running_") for key in buffers):
            yield name, module
