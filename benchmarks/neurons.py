"""Our neurons and networks against the same made with spikingjelly's layers, on one CPU thread.

    OMP_NUM_THREADS=1 python benchmarks/neurons.py

Both sides run alternately in one process; medians of forward plus backward in milliseconds, and their ratio.
"""

import statistics
import time
from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet
from torch import Tensor, nn

from bkdsnn import spec
from bkdsnn.models import build
from bkdsnn.models.neurons import Spiking

ROUNDS = 25
T, B, CLASSES = 4, 50, 10
NEURONS = {
    "IF, atan, detached": spec.Neuron(kind="if", surrogate="atan", alpha=2.0),
    "IF, sigmoid, detached": spec.Neuron(kind="if", surrogate="sigmoid", alpha=4.0),
    "LIF, triangle, not detached": spec.Neuron(
        kind="lif", decay_input=False, detach_reset=False, surrogate="triangle", alpha=1.0
    ),
}
SURROGATES = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid, "triangle": surrogate.PiecewiseQuadratic}
SHAPES = [(8, 12, 12), (8, 24, 24), (64, 28, 28)]
NETWORKS = {
    "SEW (1,1,1,1) x (8,16,32,64), 48 px": (48, {"stem": "imagenet", "blocks": (1,) * 4, "widths": (8, 16, 32, 64)}),
    "SEW (1,1,1) x (8,16,32), 16 px": (16, {"stem": "cifar", "blocks": (1,) * 3, "widths": (8, 16, 32)}),
}


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'one step, T=4, batch 50':48} {'ours':>8} {'spikingjelly':>13} {'ratio':>6}")
    for name, configuration in NEURONS.items():
        for shape in SHAPES:
            currents = torch.randn(T * B, *shape, requires_grad=True)
            report(f"{name}, {shape}", *(step(fire, currents) for fire in neurons(configuration)))
    for name, (size, fields) in NETWORKS.items():
        images = torch.randn(B, 3, size, size)
        report(name, *(step(net, images) for net in networks(fields)))


def neurons(configuration: spec.Neuron) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the same layer of neurons, ours and spikingjelly's, each from (T*B, ...) to (T*B, ...)."""
    node = spikingjelly_node(configuration)

    def theirs(currents: Tensor) -> Tensor:
        node.reset()
        return node(currents.unflatten(0, (T, B))).flatten(0, 1)

    return Spiking(configuration, T), theirs


def spikingjelly_node(configuration: spec.Neuron) -> nn.Module:
    """Return spikingjelly's neuron for the configuration."""
    options = {
        "v_threshold": configuration.v_threshold,
        "v_reset": configuration.v_reset,
        "detach_reset": configuration.detach_reset,
        "surrogate_function": SURROGATES[configuration.surrogate](configuration.alpha),
        "step_mode": "m",
    }
    if configuration.kind == "if":
        return neuron.IFNode(**options)
    return neuron.LIFNode(configuration.tau, configuration.decay_input, **options)


class Reference(nn.Module):
    """A SEW network of spikingjelly's layers and zoo blocks, its stem also run once per image."""

    def __init__(self, stem: str, blocks: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(widths[0])
        )
        pool = layer.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        inputs = (widths[0], *widths[:-1])
        stages = [self.block(a, b, 2 if index else 1) for index, (a, b) in enumerate(zip(inputs, widths))]
        self.body = nn.Sequential(neuron.IFNode(**self.options()), pool, *stages)
        self.fc = nn.Linear(widths[-1], CLASSES)
        functional.set_step_mode(self.body, "m")

    @staticmethod
    def options() -> dict[str, object]:
        """Return the neuron of the SEW reference."""
        return {"surrogate_function": surrogate.ATan(), "detach_reset": True, "step_mode": "m"}

    def block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        """Return one basic block, with a projection where the shape changes."""
        projection = None
        if stride > 1:
            projection = nn.Sequential(sew_resnet.conv1x1(inputs, outputs, stride), layer.BatchNorm2d(outputs))
        kinds = {"cnf": "ADD", "spiking_neuron": neuron.IFNode}
        return sew_resnet.BasicBlock(inputs, outputs, stride, projection, **kinds, **self.options())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (T, B, K)."""
        functional.reset_net(self)
        currents = self.stem(images)
        return self.fc(self.body(currents.expand(T, *currents.shape)).mean((-2, -1)))


def networks(fields: dict) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the same network, ours and spikingjelly's, each from images to logits."""
    shared = {"name": "benchmark", "stem_width": fields["widths"][0], "block": "basic", "timesteps": T}
    atan = NEURONS["IF, atan, detached"]
    net = build(spec.ResNet(form="sew", neuron=atan, **shared, **fields), CLASSES)
    return (lambda images: net(images).logits), Reference(**fields)


def step(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], None]:
    """Return a function that runs forward and backward once."""
    weights = torch.randn_like(run(inputs))
    return lambda: run(inputs).backward(weights)


def report(name: str, *sides: Callable[[], None]) -> None:
    """Time the sides in turn and print one row."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, seconds in zip(sides, times):
            start = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - start)
    ours, theirs = (1e3 * statistics.median(seconds[2:]) for seconds in times)
    print(f"{name:48} {ours:8.2f} {theirs:13.2f} {theirs / ours:6.2f}")


if __name__ == "__main__":
    main()
