"""What more a GPU could give: a step replayed as a CUDA graph, and several trainings side by side.

    python benchmarks/probe.py --device cuda
    python benchmarks/probe.py --device cpu --scale smoke

Networks, losses and images are those of SEW-ResNet-20 on CIFAR-10 in table 2a at a scale, alone and with BKDSNN, the
images random. A graph holds forward and backward pass; the masks of BKDSNN, which are drawn on the CPU, stay as they
were in the step before. Side by side: so many processes make steps at the same time, as trainings do that share a GPU.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import harness
import throughput
import torch
from torch import Tensor

from bkdsnn import models
from bkdsnn.data.loader import Batch
from bkdsnn.distill import restoration
from bkdsnn.machine import devices
from bkdsnn.training.step import build

COUNTS = {"cuda": (1, 2, 4, 8), "cpu": (1, 2)}  # of processes
SECONDS = {"cuda": 3.0, "cpu": 1.0}  # for which they make steps
PATIENCE = 60.0  # seconds until a process gives up waiting for the others
CALLS = 20  # replays in one measurement


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--device", default="cpu", choices=COUNTS, help="cpu or cuda (default: cpu)")
    parser.add_argument("--scale", default="paper", help="scale of the networks (default: paper)")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    device = devices.choose(options.device, 1)
    rows = [] if device.type == "cpu" else [graph(options.scale, device, index, options.rounds) for index in (0, 1)]
    harness.show(rows)
    speeds = side_by_side(options.scale, device.type)
    harness.show([{"trainings": count, "images/s in all": speed} for count, speed in speeds.items()])
    about = {"machine": machine, "hardware": devices.describe(device), "side_by_side": speeds}
    harness.finish("probe", device.type, options.out, rows, **about)


def step(scale: str, device: torch.device, distilled: int) -> tuple[throughput.Side, Batch]:
    """Return our side of a training, and a batch for it, both on the device."""
    spec = throughput.specs(throughput.Case("table2a", scale, "resnet20-cifar10"), device)[distilled]
    torch.manual_seed(0)
    teacher = models.build(spec.teacher.network, spec.dataset).to(device) if spec.teacher else None
    student, criterion = build(spec, teacher, device)
    images = throughput.random_batch(spec, spec.recipe.batch_size, spec.dataset.image_size)
    return throughput.Side(spec, student, criterion, teacher), Batch(*(part.to(device) for part in images))


def graph(scale: str, device: torch.device, distilled: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds of forward and backward pass, started kernel by kernel and as one graph."""
    side, batch = step(scale, device, distilled)
    ours = side.step()

    def passes() -> None:
        torch.stack(list(ours.losses(batch, throughput.LATER).values())).sum().backward()

    kept: dict[torch.Size, Tensor] = {}
    sent, restoration.sent = restoration.sent, lambda mask, to: kept.setdefault(mask.shape, mask.to(to))
    try:
        sides = {"eager ms": passes, "graph ms": captured(passes)}
    finally:
        restoration.sent = sent
    found = harness.in_turn({name: harness.clocked(repeated(call)) for name, call in sides.items()}, rounds)
    times = {name: 1000 * statistics.median(seconds) / CALLS for name, seconds in found.items()}
    return {"loss": side.spec.method, **times, "eager / graph": harness.ratio(*found.values())}


def captured(passes: Callable[[], None]) -> Callable[[], None]:
    """Return what replays the passes; they run before, aside, so that kernels are compiled and gradients there."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            passes()
    torch.cuda.current_stream().wait_stream(stream)
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made):
        passes()
    return made.replay


def repeated(call: Callable[[], None]) -> Callable[[], None]:
    """Return what calls `CALLS` times, and then waits for the GPU."""

    def run() -> None:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()

    return run


def side_by_side(scale: str, device: str) -> dict[int, float]:
    """Return the images/s of so many trainings together, by their number."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(max(COUNTS[device])), context.SimpleQueue()
    workers = [
        context.Process(target=work, args=(scale, device, index, barrier, results)) for index in range(barrier.parties)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if codes := [worker.exitcode for worker in workers if worker.exitcode]:
        raise RuntimeError(f"{len(codes)} of {len(workers)} processes failed, see above")
    found = [results.get() for count in COUNTS[device] for _ in range(count)]
    return {count: sum(speed for of, speed in found if of == count) for count in COUNTS[device]}


def work(scale: str, device: str, index: int, barrier: Barrier, results: SimpleQueue[tuple[int, float]]) -> None:
    """Make steps with BKDSNN whenever so many processes are wanted that this one is among them."""
    side, batch = step(scale, devices.choose(device, 1), 1)
    run, images = side.steps(batch), len(batch.labels) * throughput.STEPS[device]
    run()
    for count in COUNTS[device]:
        barrier.wait(PATIENCE)
        if index < count:
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS[device]:
                run()
                done += images
            results.put((count, done / (time.perf_counter() - began)))
    barrier.wait(PATIENCE)


if __name__ == "__main__":
    main()
