"""Training steps per second and their memory: ours against the plain spikingjelly step that a user would write.

    python benchmarks/throughput.py --device cpu
    python benchmarks/throughput.py --device cuda

plain   spikingjelly's network (its zoo's, or its blocks or layers where the zoo has none), every image repeated T
        times (frames of events are not), membranes reset each step, torch's default memory format; on a GPU under
        bf16 autocast, which in spikingjelly 2.0.0 makes its neurons fall back to a loop in Python
fused   on a GPU only: the same, prepared for bf16 by spikingjelly, so that its fused neurons run
ours    the student and the `Step` of the trainer
lean    the same with recomputation, docs/memory.md

Each with the task loss alone and with BKDSNN, on labels that are neither mixed nor smoothed. What distillation costs is
measured in the same rounds: our step with it, less the teacher's forward pass, over our step without. Teacher and loss
terms are ours on every side. All sides have the same weights; their losses and gradients are compared in float64 before
anything is timed. Memory is what the tensors of a step take at its peak, above what lies there between steps.
"""

from __future__ import annotations

import copy
import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import reference
import torch
from live import Live
from spikingjelly.activation_based.precision import prepare_model_for_precision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bkdsnn import models
from bkdsnn.config import RunSpec, paper
from bkdsnn.data.loader import Batch
from bkdsnn.distill import Criterion
from bkdsnn.machine import devices
from bkdsnn.models.neurons import Spiking, implementation
from bkdsnn.models.recomputation import recompute
from bkdsnn.runs.checkpoint import Position
from bkdsnn.training.step import DTYPES, Step, teacher_outputs
from bkdsnn.training.step import build as build_ours

STEPS = {"cpu": 1, "cuda": 10}  # in one measurement unless --steps says so; a GPU is waited for at its end
WARM_UP = 3  # rounds that measure memory before others measure time
OTHERS = {"cpu": ("plain",), "cuda": ("plain", "fused")}  # sides that are spikingjelly's
DISTILLED = "bkdsnn"  # row whose loss and teacher are those of every case of its column
LR = 1e-6  # so small that the networks timed are those compared
CHECKED = (2, 32)  # images, and their greatest size, in the comparison; frames of events keep their size
EVENTS = 0.3  # of each polarity per place and frame, on average
LATER = Position(step=1)  # not the first of an epoch, at which training measures gradients besides
MATRIX = 8192  # rows and columns of the bf16 product that gives the peak


class Case(NamedTuple):
    """The network of a table's row and column at a scale; `size` in pixels and `batch` replace those of the scale."""

    table: str
    scale: str
    column: str
    size: int | None = None
    batch: int | None = None
    row: str = DISTILLED


CASES = {
    "cpu": {
        "demo-R18": Case("table2c", "demo", "resnet18-imagenet"),
        "demo-R50": Case("table2c", "demo", "resnet50-imagenet"),
        "demo-R20": Case("table2a", "demo", "resnet20-cifar10"),
        "demo-R19": Case("table2a", "demo", "resnet19-cifar10"),
        "R20-32px": Case("table2a", "paper", "resnet20-cifar10", batch=32),
        "R19-32px": Case("table2a", "paper", "resnet19-cifar10", batch=4),
        "R18-64px": Case("table2c", "paper", "resnet18-imagenet", size=64, batch=8),
        "R50-64px": Case("table2c", "paper", "resnet50-imagenet", size=64, batch=8),
        "demo-Spikformer": Case("table2b", "demo", "sformer-4-384-cifar10", row="spikformer-cml"),
        "demo-Spikingformer": Case("table2b", "demo", "sformer-4-384-cifar10"),
        "Spikingformer-4-256": Case("table2b", "paper", "sformer-4-256-cifar10", batch=16),
        "Spikingformer-4-384": Case("table2b", "paper", "sformer-4-384-cifar10", batch=8),
        "Spikingformer-8-384-64px": Case("table2d", "paper", "sformer-8-384-imagenet", size=64, batch=8),
        "demo-Wide-7B": Case("table3b", "demo", "wide-7b-net-t4"),
        "Wide-7B-48px": Case("table3b", "lite", "wide-7b-net-t4", batch=4),
    },
    "cuda": {
        "R18-224px": Case("table2c", "paper", "resnet18-imagenet", batch=128),
        "R50-224px": Case("table2c", "paper", "resnet50-imagenet", batch=64),
        "R19-32px": Case("table2a", "paper", "resnet19-cifar10"),
        "R20-32px": Case("table2a", "paper", "resnet20-cifar10"),
        "Spikformer-4-384": Case("table2b", "paper", "sformer-4-384-cifar10", row="spikformer-cml"),
        "Spikingformer-4-384": Case("table2b", "paper", "sformer-4-384-cifar10"),
        "Spikingformer-8-384": Case("table2d", "paper", "sformer-8-384-imagenet", batch=64),
        "Wide-7B-128px": Case("table3b", "paper", "wide-7b-net-t4"),
    },
}


class Side:
    """A student with its criterion and teacher, which make the step of the trainer."""

    def __init__(
        self,
        spec: RunSpec,
        student: nn.Module,
        criterion: Criterion,
        teacher: models.Network | None,
        lean: bool = False,
    ) -> None:
        self.spec, self.student, self.criterion, self.teacher = spec, student, criterion, teacher
        self.parts = nn.ModuleList(part for part in (student, criterion, teacher) if part is not None)
        self.ours, self.lean = isinstance(student, models.Network), lean
        if lean:
            recompute(student)

    def step(self) -> Step:
        """Return the step with all parts where they lie now."""
        return Step(self.spec, self.spec.recipe, self.student, self.criterion, self.teacher)

    def steps(self, batch: Batch) -> Callable[[], None]:
        """Return a function that makes `STEPS` steps; cuDNN is deterministic on our side, as in the trainer."""
        device, step = batch.labels.device, self.step()

        def run() -> None:
            torch.backends.cudnn.deterministic = self.ours
            devices.allocate(keep_memory=not self.lean)
            for _ in range(STEPS[device.type]):
                step(batch, LATER)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    def evidence(self, batch: Batch) -> tuple[float, float]:
        """Return the loss in float64, and the norm of its gradient at the first weights, behind all others."""
        self.parts.double()
        losses = self.step().losses(Batch(batch.images.double(), batch.teacher_input.double(), batch.labels), LATER)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        norm = next(self.student.parameters()).grad.norm()
        for part in self.parts:
            part.float().zero_grad()
        return loss.item(), norm.item()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=15)
    parser.add_argument("--device", default="cpu", choices=list(CASES), help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    names = [name for cases in CASES.values() for name in cases]
    parser.add_argument("--cases", nargs="+", choices=names, help="some of the device's cases (default: all)")
    parser.add_argument("--steps", type=int, help="in one measurement (default: 1, on a GPU 10)")
    parser.add_argument("--without-fused", action="store_true", help="without spikingjelly's fused neurons")
    options = parser.parse_args(arguments)
    STEPS[options.device] = options.steps or STEPS[options.device]
    OTHERS["cuda"] = ("plain",) if options.without_fused else OTHERS["cuda"]
    machine = harness.machine()
    device = devices.choose(options.device, options.threads)
    peak = matrix_peak(device) if device.type == "cuda" else None
    about = {"machine": machine, "hardware": devices.describe(device), "bf16_tflops": peak}
    cases = CASES[options.device]
    rows: list[dict[str, Any]] = []
    for name in options.cases or cases:
        for spec in specs(cases[name], device):
            rows.append({"case": name, "loss": spec.method, **measure(spec, device, options.rounds, peak)})
            harness.finish("throughput", options.device, options.out, rows, **about)  # a later failure loses nothing
            print(f"{name}, {spec.method}: measured", flush=True)
    harness.show([printed(row) for row in rows])
    if peak:
        print(f"bf16 product: {peak:.0f} TFLOP/s; our neurons: {sorted({row['our_neurons'] for row in rows})}")


def specs(case: Case, device: torch.device) -> list[RunSpec]:
    """Return the run of that case without and with distillation; on a GPU in bf16."""
    plan = paper.plan(case.table, case.scale, seeds=[0])
    run, other = (plan.cell(row, case.column).runs[0] for row in (DISTILLED, case.row))
    batch, precision = case.batch or run.recipe.batch_size, "bf16" if device.type == "cuda" else "fp32"
    plain = {"mix": None, "label_smoothing": 0.0, "sync_batch_norm": False}
    recipe = run.recipe.model_copy(update={"batch_size": batch, "lr": LR, "precision": precision, **plain})
    dataset = run.dataset.model_copy(update={"image_size": case.size or run.dataset.image_size})
    distilled = run.model_copy(update={"network": other.network, "dataset": dataset, "recipe": recipe})
    return [distilled.model_copy(update={"distill": (), "teacher": None}), distilled]


def measure(spec: RunSpec, device: torch.device, rounds: int, peak: float | None) -> dict[str, Any]:
    """Compare all sides, then time them in turn; `peak` of the device in TFLOP/s, None on a CPU."""
    torch.manual_seed(0)
    batch, size = spec.recipe.batch_size, spec.dataset.image_size
    shown = random_batch(spec, batch, size)
    sides = build(spec, device)
    sides["lean"] = recomputing(sides["ours"])
    compare(sides, random_batch(spec, CHECKED[0], size if spec.dataset.events else min(size, CHECKED[1])))
    shown = Batch(*(part.to(device) for part in shown))
    steps = {name: side.steps(shown) for name, side in placed(sides, device).items()}
    memory = harness.in_turn(
        {name: functools.partial(extra_memory, run, device) for name, run in steps.items()}, WARM_UP
    )
    parts = distillation(spec, sides["ours"], shown) if spec.teacher else {}
    seconds = harness.in_turn({name: harness.clocked(run) for name, run in {**steps, **parts}.items()}, rounds)
    flops = count_flops(steps["ours"]) if peak else 0
    found = {}
    for name, took in ((name, seconds[name]) for name in steps):
        each = harness.spread([second / STEPS[device.type] for second in took])
        found[name] = {
            "seconds": each,
            "images_per_second": batch / each["median"],
            "memory_mib": statistics.median(memory[name]),
        }
        found[name]["ours_faster"] = harness.ratio(took, seconds["ours"])
        if peak:
            found[name]["peak_share"] = flops / each["median"] / peak / 1e12
    neurons = next(part for part in sides["ours"].student.modules() if isinstance(part, Spiking))
    shape = {"batch": batch, "size": size, "timesteps": spec.network.timesteps}
    cost = {"distillation_cost": added(seconds)} if parts else {}
    ran = implementation(device, DTYPES[spec.recipe.precision], neurons.neuron)
    return {**shape, "our_neurons": ran, "sides": found, **cost}


def random_batch(spec: RunSpec, count: int, size: int) -> Batch:
    """Return random images of `size` pixels, or frames for the student and frames for its teacher, and labels."""
    labels = torch.randint(spec.dataset.classes, (count,))
    if not spec.dataset.events:
        images = torch.randn(count, 3, size, size)
        return Batch(images, images, labels)
    timesteps = [run.network.timesteps for run in (spec, spec.teacher or spec)]
    frames = (torch.poisson(torch.full((count, steps, 2, size, size), EVENTS)) for steps in timesteps)
    return Batch(*frames, labels)


def recomputing(ours: Side) -> Side:
    """Return our side once more, with recomputation."""
    return Side(ours.spec, copy.deepcopy(ours.student), copy.deepcopy(ours.criterion), ours.teacher, lean=True)


def distillation(spec: RunSpec, ours: Side, batch: Batch) -> dict[str, Callable[[], None]]:
    """Return what our step with distillation is compared with: the step without, and the teacher's forward pass."""
    plain = spec.model_copy(update={"distill": (), "teacher": None})
    device = batch.labels.device
    student, criterion = build_ours(plain, None, device)

    def teach() -> None:
        for _ in range(STEPS[device.type]):
            with torch.autocast(device.type, DTYPES[spec.recipe.precision], enabled=device.type == "cuda"):
                teacher_outputs(ours.teacher, batch.teacher_input, ours.criterion.teacher_taps)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return {"alone": Side(plain, student, criterion, None).steps(batch), "teacher": teach}


def added(seconds: dict[str, list[float]]) -> float:
    """Return the share that distillation adds to a step, the teacher apart: median over the rounds."""
    own = [whole - teacher for whole, teacher in zip(seconds["ours"], seconds["teacher"], strict=True)]
    return harness.ratio(own, seconds["alone"]) - 1


def build(spec: RunSpec, device: torch.device) -> dict[str, Side]:
    """Return all sides with the same weights, on the CPU; they share the teacher, which nothing changes."""
    teacher = models.build(spec.teacher.network, spec.dataset) if spec.teacher else None
    student, criterion = build_ours(spec, teacher, torch.device("cpu"))
    sides = {"ours": Side(spec, student, criterion, teacher)}
    for name in OTHERS[device.type]:
        other = reference.Reference(spec.network, spec.dataset, student.taps[-1])
        other.load(student.state_dict())
        sides[name] = Side(spec, other, copy.deepcopy(criterion), teacher)
    return sides


def compare(sides: dict[str, Side], batch: Batch) -> None:
    """Assert that losses and gradients agree; in float64, where rounding does not decide whether a neuron fires."""
    found = {name: side.evidence(batch) for name, side in sides.items()}
    for name in found:
        torch.testing.assert_close(found[name], found["ours"], rtol=1e-9, atol=0, msg=lambda text: f"{found}: {text}")


def placed(sides: dict[str, Side], device: torch.device) -> dict[str, Side]:
    """Move all sides to the device; prepare the fused one the way spikingjelly documents."""
    for name, side in sides.items():
        side.parts.to(device)
        if name == "fused":
            precision = {"mode": "bf16", "neuron_storage": "bf16"}
            side.student.net = prepare_model_for_precision(side.student.net, device, precision).model
    return sides


def extra_memory(run: Callable[[], None], device: torch.device) -> float:
    """Return the MiB that tensors take at the peak of steps above what lies there before them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with Live() as live:
        run()
    return live.peak / 2**20


def matrix_peak(device: torch.device) -> float:
    """Return the TFLOP/s of the fastest of some large bf16 matrix products."""
    a, b = (torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16, device=device) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize(device)

    (seconds,) = harness.in_turn({"product": harness.clocked(product)}, rounds=20).values()
    return 2 * MATRIX**3 / min(seconds) / 1e12


def count_flops(run: Callable[[], None]) -> float:
    """Return the floating-point operations of one of `STEPS` steps on a GPU, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / STEPS["cuda"]


def printed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it is shown: what our side does, then each other side beside it."""
    shown = {"case": row["case"], "loss": row["loss"]}
    for name, side in row["sides"].items():
        shown |= {f"{name} images/s": side["images_per_second"], f"{name} MiB": side["memory_mib"]}
        if "peak_share" in side:
            shown[f"{name} of peak"] = side["peak_share"]
        if name != "ours":
            shown[f"ours/{name}"] = side["ours_faster"]
    if "distillation_cost" in row:
        shown["distillation %"] = 100 * row["distillation_cost"]
    return shown


if __name__ == "__main__":
    main()
