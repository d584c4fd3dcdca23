"""Hooks that count the inputs of a network's layers and the spikes of its neurons while it runs.

Shapes: T time-steps, B images, N tokens, D their width, d = D / heads; activations are folded, (T*B, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from bkdsnn.analysis.activity_records import AttentionRates, Kind, LayerActivity
from bkdsnn.models import Network
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.outputs import Attended
from bkdsnn.models.quantised import ClipFloor, SpikingClipFloor
from bkdsnn.models.transformer import left_first

KINDS: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "conv",
    nn.Linear: "linear",
    nn.BatchNorm2d: "norm",
    nn.LayerNorm: "norm",
}
FREE = (Spiking, ClipFloor, SpikingClipFloor)  # their weights are one number a layer
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


class EntryCounts:
    """Counts of samples, entries and non-zero entries of tensors (samples, ...); whether all are integers, all 0 or 1.

    Counts are Python integers, so they are exact for any number of tensors.
    """

    def __init__(self) -> None:
        self.samples = self.entries = self.nonzero = 0
        self.integer = self.binary = True

    def add(self, x: Tensor) -> None:
        """Count the entries of one tensor."""
        nonzero = int((x != 0).count_nonzero())  # several times faster on bytes than on floats
        self.samples += len(x)
        self.entries += x.numel()
        self.nonzero += nonzero
        self.binary = self.binary and int((x == 1).count_nonzero()) == nonzero
        self.integer = self.integer and (self.binary or bool((x == x.round()).all()))

    @property
    def rate(self) -> float:
        """Share of non-zero entries; for spikes this is the firing rate."""
        return self.nonzero / self.entries


class Counts:
    """All counts of a network; `counting` fills them."""

    def __init__(self) -> None:
        self.costs: dict[str, LayerCost] = {}
        self.fired: dict[str, EntryCounts] = {}
        self.attended: dict[str, dict[str, EntryCounts]] = {}

    def layers(self, images: int) -> list[LayerActivity]:
        """Return the cost of each layer per image, averaged over `images`, in order of first use."""
        return [cost.record(name, images) for name, cost in self.costs.items()]

    def neurons(self) -> dict[str, float]:
        """Return the firing rate of every layer of spiking neurons, by name of the module."""
        return {name: tally.rate for name, tally in self.fired.items()}

    def blocks(self) -> list[AttentionRates]:
        """Return the firing rates of every block of spiking attention, by name of its tap."""
        return [
            AttentionRates(name=tap, **{part: one.rate for part, one in of.items()})
            for tap, of in self.attended.items()
        ]


@contextmanager
def counting(network: Network) -> Iterator[Counts]:
    """Count the operations of `network` inside the block, then remove the hooks; norms only if nothing spikes."""
    counts, hooks = Counts(), []
    for module, hook in _hooks(network, counts):
        hooks.append(module.register_forward_hook(hook))
    try:
        yield counts
    finally:
        for handle in hooks:
            handle.remove()


@dataclass
class LayerCost:
    """A layer with its operands that may be zero; the sparsest one determines the number of products."""

    kind: Kind
    operands: list[EntryCounts]
    macs: int = 0

    def record(self, name: str, images: int) -> LayerActivity:
        """Return the layer's cost per image, averaged over `images`."""
        rarest = min(self.operands, key=lambda one: one.rate)
        return LayerActivity(
            name=name,
            kind=self.kind,
            macs=self.macs,
            passes=rarest.samples // images,
            rate=rarest.rate,
            binary=all(one.binary for one in self.operands),
            integer=all(one.integer for one in self.operands),
        )


def _hooks(network: Network, counts: Counts) -> Iterator[tuple[nn.Module, Hook]]:
    spiking = any(isinstance(module, Spiking) for module in network.modules())
    names = {module: name for name, module in network.named_modules()}
    for module, name in names.items():
        kind = next((kind for of, kind in KINDS.items() if isinstance(module, of)), None)
        if kind and not (spiking and kind == "norm"):
            yield module, _layer(counts, name, kind)
        elif isinstance(module, Spiking):
            yield module, _neurons(counts, name)
    for tap, attended in network.attentions().items():  # after the hooks of their own layers
        yield from _attended(counts, names[attended.module], tap, attended)


def _layer(counts: Counts, name: str, kind: Kind) -> Hook:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        cost = counts.costs.setdefault(name, LayerCost(kind, [EntryCounts()]))
        cost.operands[0].add(inputs[0])
        cost.macs = output[0].numel() * _fan_in(module)

    return hook


def _neurons(counts: Counts, name: str) -> Hook:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.fired.setdefault(name, EntryCounts()).add(output)

    return hook


def _attended(counts: Counts, name: str, tap: str, parts: Attended) -> Iterator[tuple[nn.Module, Hook]]:
    tallies = {part: EntryCounts() for part in parts.layers}
    if parts.spiking:
        counts.attended[tap] = tallies
    for part, (layer, third) in parts.layers.items():
        yield layer, _part(tallies[part], third)
    yield parts.layers["v"][0], _products(counts, name, parts, tallies)  # the last of the three to be computed


def _part(tally: EntryCounts, third: int | None) -> Hook:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        tally.add(output if third is None else output.chunk(3, dim=1 if output.dim() == 4 else 2)[third])

    return hook


def _products(counts: Counts, name: str, parts: Attended, tallies: dict[str, EntryCounts]) -> Hook:
    """Both products cost the same: N^2 D multiplications each with q k^T first, N D d with k^T v first."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        tokens, width = _tokens(output, shared=parts.layers["v"][1] is not None)
        left = not parts.spiking or left_first(tokens, width // parts.heads)
        macs = tokens * width * (tokens if left else width // parts.heads)
        for product, operands in (("qk", "qk"), ("(qk)v", "v")) if left else (("kv", "kv"), ("q(kv)", "q")):
            counts.costs[f"{name}:{product}"] = LayerCost("attention", [tallies[part] for part in operands], macs)

    return hook


def _tokens(v: Tensor, shared: bool) -> tuple[int, int]:
    """Return N and D of a map (T*B, D, h, w) or of tokens (B, N, D), 3 D where q, k and v share it."""
    tokens, width = (v.shape[2] * v.shape[3], v.shape[1]) if v.dim() == 4 else (v.shape[1], v.shape[2])
    return tokens, width // 3 if shared else width


def _fan_in(module: nn.Module) -> int:
    """Return the MACs of one entry of the output; 1 for a norm."""
    if isinstance(module, nn.Conv2d):
        return module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    return module.in_features if isinstance(module, nn.Linear) else 1
