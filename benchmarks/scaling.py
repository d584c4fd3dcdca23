"""How the time of a training step grows with time-steps T, batch and width: ours and the plain spikingjelly step.

    python benchmarks/scaling.py

The networks of two tables at scale demo, task loss alone, one thread; one of T, batch and width is changed at a time,
from T = 4, the batch of the scale and its widths. All points and both sides are measured in turn. `exponent` is the
slope of log time over log value, fitted to all points of an axis: 1 is proportional, 0 constant; `ratio` is plain over
ours.
"""

from __future__ import annotations

import math
from typing import Any

import harness
import numpy as np
import throughput
import torch

from bkdsnn.config import ResNet, RunSpec
from bkdsnn.machine import devices

NETWORKS = ("demo-R18", "demo-Spikingformer")  # cases of throughput.py
AXES = {"T": (1, 2, 4, 8, 16), "batch": (10, 20, 40, 80), "width": (1, 2, 4)}  # widths: multiples


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=11)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="what is changed (default: all)")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    device = devices.choose("cpu", 1)
    rows: list[dict[str, Any]] = []
    for name in NETWORKS:
        spec = throughput.specs(throughput.CASES["cpu"][name], device)[0]
        for axis in options.axes:
            rows += measure(name, axis, {value: changed(spec, axis, value) for value in AXES[axis]}, options.rounds)
            harness.finish("scaling", "cpu", options.out, rows, machine=machine)
            print(f"{name}, {axis}: measured", flush=True)
    harness.show(rows)


def changed(spec: RunSpec, axis: str, value: int) -> RunSpec:
    """Return the run with another T, batch, or widths times `value`."""
    network, recipe = spec.network, spec.recipe
    if axis == "batch" and recipe:
        return spec.model_copy(update={"recipe": recipe.model_copy(update={"batch_size": value})})
    if axis == "T":
        wider: dict[str, Any] = {"timesteps": value}
    elif isinstance(network, ResNet):
        wider = {"stem_width": network.stem_width * value, "widths": tuple(width * value for width in network.widths)}
    else:
        wider = {"dim": network.dim * value}
    return spec.model_copy(update={"network": network.model_copy(update=wider)})


def measure(name: str, axis: str, specs: dict[int, RunSpec], rounds: int) -> list[dict[str, Any]]:
    """Return a row a point: median milliseconds of a step of both sides, their ratio, and our exponent."""
    runs = {(value, side): run for value, spec in specs.items() for side, run in steps(spec).items()}
    for run in runs.values():
        run()  # makes what lasts
    seconds = harness.in_turn({str(key): harness.clocked(run) for key, run in runs.items()}, rounds)
    ours, plain = ({value: seconds[str((value, side))] for value in specs} for side in ("ours", "plain"))
    medians = {value: harness.spread(took)["median"] for value, took in ours.items()}
    return [
        {
            "network": name,
            "axis": axis,
            "value": value,
            "ours ms": 1000 * medians[value],
            "ratio": harness.ratio(plain[value], ours[value]),
            "exponent": exponent(medians),
        }
        for value in specs
    ]


def steps(spec: RunSpec) -> dict[str, Any]:
    """Return the steps of both sides on random images."""
    torch.manual_seed(0)
    size, device = spec.dataset.image_size, torch.device("cpu")
    batch = throughput.random_batch(spec, spec.recipe.batch_size, size)
    return {name: side.steps(batch) for name, side in throughput.build(spec, device).items()}


def exponent(medians: dict[int, float]) -> float:
    """Return the slope of log seconds over log value."""
    points = [(math.log(value), math.log(took)) for value, took in medians.items()]
    return float(np.polyfit(*zip(*points), 1)[0])


if __name__ == "__main__":
    main()
