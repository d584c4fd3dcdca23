"""One layer of our neurons against spikingjelly's, forward and backward; on a CPU one thread.

    python benchmarks/neurons.py
    python benchmarks/neurons.py --device cuda

On a CPU in float32; `loop` is ours by torch's operations, where there is no C compiler. On a GPU in bf16 with a float32
membrane, spikingjelly's neurons prepared so that its fused kernels run. A row that fails, such as one where sides
differ in a spike, is told and ends no other; the exit code is 1 then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import harness
import torch
from reference import nodes
from spikingjelly.activation_based.precision import prepare_model_for_precision
from torch import Tensor

from bkdsnn import config
from bkdsnn.machine import devices
from bkdsnn.models.firing import loop
from bkdsnn.models.neurons import Spiking, implementation

T = 4
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
NEURONS = {
    "IF, atan, detached": config.Neuron(kind="if", surrogate="atan", alpha=2.0),
    "IF, sigmoid, detached": config.Neuron(kind="if", surrogate="sigmoid", alpha=4.0),
    "LIF, triangle, not detached": config.Neuron(
        kind="lif", decay_input=False, detach_reset=False, surrogate="triangle", alpha=1.0
    ),
    "PLIF, atan, detached": config.Neuron(kind="plif", surrogate="atan", alpha=2.0),
}
SHAPES = [(8, 12, 12), (8, 24, 24), (64, 28, 28)]
Fire = Callable[[Tensor], Tensor]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return 1 if a row failed, else 0."""
    parser = harness.parser(__doc__, rounds=25)
    parser.add_argument("--device", default="cpu", choices=DTYPES, help="cpu or cuda (default: cpu)")
    parser.add_argument("--batch", type=int, default=50, help="images, each T times (default: 50)")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    device = devices.choose(options.device, 1)
    torch.manual_seed(0)
    rows = [
        {"neuron": name, "C H W": " ".join(map(str, shape))}
        | harness.attempt(partial(row, name, (T * options.batch, *shape), options.rounds, device))
        for name in NEURONS
        for shape in SHAPES
    ]
    harness.show(rows)
    ran = sorted({implementation(device, DTYPES[device.type], neuron) for neuron in NEURONS.values()})
    hardware = devices.describe(device)
    about = {"machine": machine, "hardware": hardware, "ran": ran, "timesteps": T, "batch": options.batch}
    harness.finish("neurons", device.type, options.out, rows, **about)
    return any("failed" in row for row in rows)


def row(name: str, shape: tuple[int, ...], rounds: int, device: torch.device) -> dict[str, object]:
    """Measure one neuron at one shape (T*B C H W): median milliseconds of all sides, and each other's over ours."""
    currents = torch.randn(shape, device=device, dtype=DTYPES[device.type]).requires_grad_()
    ours = Spiking(NEURONS[name], T).to(device)
    sides: dict[str, Fire] = {
        "ours": ours,
        "loop": partial(loop.fire, w=ours.w, neuron=ours.neuron, timesteps=T, static=False),
        "spikingjelly": theirs(NEURONS[name], device),
    }
    expected = ours(currents)
    for side, fire in sides.items():
        wrong = (fire(currents) != expected).sum().item()
        assert not wrong, f"{side}: {wrong} of {expected.numel()} spikes are others than ours"
    seconds = harness.in_turn({side: step(fire, currents) for side, fire in sides.items()}, rounds)
    milliseconds = {f"{side} ms": 1000 * harness.spread(found)["median"] for side, found in seconds.items()}
    ratios = {f"{side} / ours": harness.ratio(seconds[side], seconds["ours"]) for side in ("loop", "spikingjelly")}
    return {**milliseconds, **ratios}


def theirs(configuration: config.Neuron, device: torch.device) -> Fire:
    """Return spikingjelly's layer of neurons, from (T*B, ...) to (T*B, ...)."""
    node = nodes.node(configuration).to(device)
    if device.type == "cuda":
        node = prepare_model_for_precision(node, device, {"mode": "bf16", "neuron_storage": "fp32"}).model

    def fire(currents: Tensor) -> Tensor:
        node.reset()
        return node(currents.unflatten(0, (T, -1))).flatten(0, 1)

    return fire


def step(fire: Fire, currents: Tensor) -> Callable[[], float]:
    """Return a function that times forward and backward; the first pass, which allocates, is not timed."""
    weights = torch.randn_like(currents)

    def run() -> None:
        currents.grad = None  # no sum with that of the last step
        fire(currents).backward(weights)
        if currents.is_cuda:
            torch.cuda.synchronize(currents.device)

    run()
    return harness.clocked(run)


if __name__ == "__main__":
    sys.exit(main())
