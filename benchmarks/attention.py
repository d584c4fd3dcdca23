"""Both orders of the product q k^T v, forward and backward, at the shapes of the tables, on one CPU thread.

    python benchmarks/attention.py

left    (q k^T) v, 2 N^2 d multiplications a head: as the formula is written
right   q (k^T v), 2 N d^2 multiplications

q, k and v are spikes of N tokens, d wide, in the memory format in which attention gets them. `ours` is the order that
`bkdsnn.models.transformer.attend` takes; N / d is the ratio of the multiplications.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import harness
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bkdsnn.config import RunSpec, paper
from bkdsnn.machine import devices
from bkdsnn.models.transformer import attend

FIRING = 0.2  # share of q, k and v that are 1
STEPS = 2  # in one measurement
CASES = [  # table, scale, column, batch
    ("table2b", "demo", "sformer-4-384-cifar10", 25),
    ("table2d", "demo", "sformer-8-768-imagenet", 25),
    ("table2b", "paper", "sformer-4-256-cifar10", 16),
    ("table2b", "paper", "sformer-4-384-cifar10", 16),
    ("table2d", "paper", "sformer-8-384-imagenet", 2),
    ("table2d", "paper", "sformer-8-512-imagenet", 2),
    ("table2d", "paper", "sformer-8-768-imagenet", 2),
]
Order = Callable[[Tensor, Tensor, Tensor, float], Tensor]
ORDERS: dict[str, Order] = {
    "left": lambda q, k, v, scale: (q @ k.mT * scale) @ v,
    "right": lambda q, k, v, scale: q @ (k.mT @ v * scale),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = harness.parser(__doc__, rounds=25).parse_args(arguments)
    machine = harness.machine()
    devices.choose("cpu", 1)
    torch.manual_seed(0)
    rows = []
    for table, scale, column, batch in CASES:
        spec = paper.plan(table, scale, seeds=[0]).cell("bkdsnn", column).runs[0]
        rows.append({"network": spec.network.name, "scale": scale, **row(spec, batch, options.rounds)})
    harness.show(rows)
    harness.finish("attention", "cpu", options.out, rows, machine=machine, firing=FIRING)


def row(spec: RunSpec, batch: int, rounds: int) -> dict[str, object]:
    """Measure one shape: median milliseconds of both orders, and the left one's over the right one's."""
    network, size = spec.network, spec.dataset.image_size // 2 ** len(spec.network.pools)
    maps = (torch.rand(network.timesteps * batch, 3 * network.dim, size, size) < FIRING).float()
    spikes = maps.contiguous(memory_format=torch.channels_last).requires_grad_()

    def mix(order: Order) -> Tensor:
        return order(*split(spikes, network.heads), network.attention_scale)

    assert all(torch.equal(mix(order), mix(attend)) for order in ORDERS.values())  # integers times a power of 2
    operations = {count(functools.partial(mix, order)): name for name, order in ORDERS.items()}
    sides = {name: step(functools.partial(mix, order), spikes) for name, order in ORDERS.items()}
    seconds = harness.in_turn(sides, rounds)
    tokens, width = size**2, network.dim // network.heads
    shape = {"batch": batch, "heads": network.heads, "N": tokens, "d": width, "N / d": tokens / width}
    milliseconds = {f"{name} ms": 1000 * harness.spread(took)["median"] / STEPS for name, took in seconds.items()}
    ratio = harness.ratio(seconds["left"], seconds["right"])
    return {**shape, **milliseconds, "left/right": ratio, "ours": operations[count(functools.partial(mix, attend))]}


def split(spikes: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return q, k and v (T*B, heads, N, d) of spikes (T*B, 3 D, h, w)."""
    return spikes.flatten(2).unflatten(1, (3, heads, -1)).mT.unbind(1)


def count(run: Callable[[], object]) -> int:
    """Return the floating-point operations of what it runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def step(run: Callable[[], Tensor], spikes: Tensor) -> Callable[[], float]:
    """Return a function that times `STEPS` passes forward and backward; the first, which allocate, are not timed."""
    weights = torch.randn_like(run())

    def steps() -> None:
        for _ in range(STEPS):
            torch.autograd.grad(run(), spikes, weights)

    steps()
    return harness.clocked(steps)


if __name__ == "__main__":
    main()
