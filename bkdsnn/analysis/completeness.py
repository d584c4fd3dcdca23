"""Checks that `counts` covers all operations of a network, so that none is left out unnoticed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from bkdsnn.analysis.counts import FREE, KINDS, counting
from bkdsnn.core.errors import UserError, unknown
from bkdsnn.models import Network

PLACE = "bkdsnn/analysis/counts.py"


def check_counted(network: Network, size: int) -> None:
    """Raise `UserError`, naming the module, unless all operations of `network` on images of this size are counted.

    Every module with weights must be of a kind that is counted, or known to do no multiplications. The number of
    products in layers and attentions must equal the number that torch computes, and all `mac_layers` must be counted.
    """
    _check_kinds(network)
    products, done = _products(network, size)
    for name in network.mac_layers().keys() - products:
        raise unknown("layer", name, products, f"'mac_layers' of {type(network).__name__}")
    for name in sorted(done, key=len, reverse=True):  # the innermost first
        counted = sum(macs for layer, macs in products.items() if _within(layer, name))
        if counted != done[name]:
            raise UserError(
                f"module '{name}' of {type(network).__name__} multiplies {done[name]} times for an image, of which "
                f"{counted} are counted; state its attention in 'attentions' of the network, or its kind of layer in "
                f"KINDS of {PLACE}"
            )


def _within(layer: str, module: str) -> bool:
    """Return whether a layer, or a product such as `block1.attention:qk`, is a module or inside it."""
    return not module or f"{layer.replace(':', '.')}.".startswith(f"{module}.")


def _check_kinds(network: Network) -> None:
    with_weights = {name.rpartition(".")[0] for name, _ in network.named_parameters()}
    for name in sorted(with_weights):
        module = network.get_submodule(name)
        if isinstance(module, (*KINDS, *FREE)) or module in network.uncounted():
            continue
        raise UserError(
            f"module '{name}' of {type(network).__name__} is a {type(module).__name__}, whose weights are in no count "
            f"of operations; add its kind to KINDS of {PLACE}, or name it in 'uncounted' of the network"
        )


@torch.inference_mode(False)  # in inference mode torch would not decompose its operations
@torch.no_grad()
def _products(network: Network, size: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of products for one image: those that are counted, by layer, and torch's own, by module."""
    with counting(network) as counts, sdpa_kernel(SDPBackend.MATH), _Multiplied(network) as multiplied:
        network(network.blank(size))
    counted = {layer.name: layer.macs * layer.passes for layer in counts.layers(images=1) if layer.kind != "norm"}
    return counted, multiplied.by_module


class _Multiplied(TorchDispatchMode):
    """While active, counts the products that torch computes inside each module that is called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.by_module: dict[str, int] = {}
        self._open: list[str] = []
        self._hooks: list[RemovableHandle] = []
        for name, module in network.named_modules():
            self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._enter_module(name)))
            self._hooks.append(module.register_forward_hook(lambda *_: self._open.pop() and None))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch loads its compiler, which takes seconds

    def _enter_module(self, name: str) -> None:
        self._open.append(name)
        self.by_module.setdefault(name, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            for name in set(self._open):
                self.by_module[name] += count(*args, **(kwargs or {}), out_val=out) // 2
        return out

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
