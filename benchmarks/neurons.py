"""One layer of our neurons against spikingjelly's, forward and backward, on one CPU thread.

python benchmarks/neurons.py
"""

from __future__ import annotations

from collections.abc import Callable

import harness
import torch
from reference import nodes
from torch import Tensor

from bkdsnn import devices, spec
from bkdsnn.models.neurons import Spiking

T, B = 4, 50
NEURONS = {
    "IF, atan, detached": spec.Neuron(kind="if", surrogate="atan", alpha=2.0),
    "IF, sigmoid, detached": spec.Neuron(kind="if", surrogate="sigmoid", alpha=4.0),
    "LIF, triangle, not detached": spec.Neuron(
        kind="lif", decay_input=False, detach_reset=False, surrogate="triangle", alpha=1.0
    ),
    "PLIF, atan, detached": spec.Neuron(kind="plif", surrogate="atan", alpha=2.0),
}
SHAPES = [(8, 12, 12), (8, 24, 24), (64, 28, 28)]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = harness.parser(__doc__, rounds=25).parse_args(arguments)
    machine = harness.machine()
    devices.choose("cpu", 1)
    torch.manual_seed(0)
    rows = [row(name, shape, options.rounds) for name in NEURONS for shape in SHAPES]
    harness.show(rows)
    harness.finish("neurons", "cpu", options.out, rows, machine=machine, timesteps=T, batch=B)


def row(name: str, shape: tuple[int, ...], rounds: int) -> dict[str, object]:
    """Measure one neuron at one shape (C, H, W): median milliseconds of both sides, and spikingjelly's over ours."""
    currents = torch.randn(T * B, *shape, requires_grad=True)
    sides: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": Spiking(NEURONS[name], T),
        "spikingjelly": theirs(NEURONS[name]),
    }
    assert torch.equal(*(fire(currents) for fire in sides.values()))
    seconds = harness.in_turn({side: step(fire, currents) for side, fire in sides.items()}, rounds)
    milliseconds = {f"{side} ms": 1000 * harness.spread(found)["median"] for side, found in seconds.items()}
    ratio = harness.ratio(seconds["spikingjelly"], seconds["ours"])
    return {"neuron": name, "C H W": " ".join(map(str, shape)), **milliseconds, "ratio": ratio}


def theirs(configuration: spec.Neuron) -> Callable[[Tensor], Tensor]:
    """Return spikingjelly's layer of neurons, from (T*B, ...) to (T*B, ...)."""
    node = nodes.node(configuration)

    def fire(currents: Tensor) -> Tensor:
        node.reset()
        return node(currents.unflatten(0, (T, B))).flatten(0, 1)

    return fire


def step(fire: Callable[[Tensor], Tensor], currents: Tensor) -> Callable[[], float]:
    """Return a function that times forward and backward; the first pass, which allocates, is not timed."""
    weights = torch.randn_like(currents)
    fire(currents).backward(weights)
    return harness.clocked(lambda: fire(currents).backward(weights))


if __name__ == "__main__":
    main()
