"""One training step of a finished run, looked into: every quantity of table 1 as it really occurs.

Shapes: T time-steps, B images, K classes, C channels, h w places.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bkdsnn.config import LD, RunSpec
from bkdsnn.core import streams
from bkdsnn.core.errors import UserError
from bkdsnn.data.loader import Batch
from bkdsnn.data.mixing import Mixing
from bkdsnn.distill.bkd import BKDLoss
from bkdsnn.distill.features import adapter, time_mean
from bkdsnn.distill.ld import softened
from bkdsnn.distill.method import Method
from bkdsnn.distill.restoration import Restoration, blur_mask, random_matrix
from bkdsnn.models import Network, Outputs
from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import open_loader
from bkdsnn.training.train import build, imitated, load_teacher


@dataclass(frozen=True)
class Quantity:
    """What a line of the table stands for: a number, or tensors of one shape, such as the student's and the teacher's.

    `code` is the name that it has in the code. `takes` is what a module is fed with. `stored` is the shape of what the
    code keeps, where `values` are another view of it.
    """

    code: str
    values: tuple[Tensor | float, ...]
    takes: Tensor | None = None
    stored: tuple[int, ...] | None = None

    @property
    def value(self) -> Tensor:
        """The first tensor."""
        assert isinstance(self.values[0], Tensor)
        return self.values[0]


@dataclass(frozen=True)
class Trace:
    """The quantities by key, and the teacher's grid (h, w) before its map is brought to the student's."""

    quantities: dict[str, Quantity]
    teacher_grid: tuple[int, ...]


@torch.no_grad()
def trace(spec: RunSpec, results: Path, device: torch.device) -> Trace:
    """Run student, teacher and criterion on the first training batch; nothing is changed below `results`.

    The student is in training mode with its final weights; f_adp and G are drawn as at the beginning of its training.
    Raises `UserError` for a run without a recipe, an unfinished one, and an unfinished teacher.
    """
    folder = RunFolder(results / "runs", spec)
    teacher = load_teacher(spec, folder, device)
    student, criterion = build(spec, teacher, device)
    checkpoint.load_run(student, spec, folder.path)
    batch = first_batch(spec, results, device)
    student.train()
    bkd = criterion.methods["bkd"]
    assert isinstance(bkd, BKDLoss)
    modules = {"adapter": bkd.adapters[0], "restoration": bkd.restoration}
    functions = (random_matrix, blur_mask, softened, Method.targets, Restoration.restore)
    with returned(*functions) as found, passed(modules) as through:
        outputs = student(batch.images, criterion.taps)
        target = imitated(teacher, batch.shown, criterion.teacher_taps)
        assert target is not None
        criterion(outputs, target, batch.labels, streams.generator(spec.seed, "blur", 0, 0))
    step = Step(spec, student, bkd.restoration, batch.labels, outputs, target, found, through)
    return Trace(step.quantities(), tuple(target.features[bkd.teacher_taps[0]].shape[-2:]))


def first_batch(spec: RunSpec, results: Path, device: torch.device) -> Batch:
    """Return the first training batch as the run saw it, augmented and mixed."""
    if spec.recipe is None:
        raise UserError(f"run {spec.name} is only evaluated; expected one that is trained")
    batch = next(open_loader(spec, results, device).train(0))
    return Mixing(spec.recipe, spec.dataset.classes, spec.seed)(batch, 0, 0)


@dataclass(frozen=True)
class Step:
    """What one training step left to look at."""

    spec: RunSpec
    student: Network
    restoration: Restoration
    labels: Tensor
    outputs: Outputs
    target: Outputs
    found: dict[str, list[Any]]
    through: dict[str, tuple[Tensor, Tensor]]

    def quantities(self) -> dict[str, Quantity]:
        """Return every quantity that an entry of the table can name, by its key."""
        feature = self.outputs.features[self.student.taps[-1]]
        logits = tuple(time_mean(outputs.logits) for outputs in (self.outputs, self.target))
        return {
            "timesteps": Quantity("spec.network.timesteps", (len(feature),)),
            "blur_ratio": Quantity("spec.distill.bkd.blur_ratio", (self.restoration.ratio,)),
            "random_matrix": self._returned(random_matrix),
            "blur_mask": self._returned(blur_mask),
            "labels": self._labels(),
            "logits": Quantity(f"{name_of(Outputs)}.logits", logits),
            "softened": Quantity(name_of(softened), (softened(logits[0], self._tau), *self._calls(softened))),
            "teacher_feature": self._returned(Method.targets),
            "student_feature": Quantity(f"{name_of(Outputs)}.features", (feature,)),
            "mean_feature": Quantity(name_of(time_mean), self.through["adapter"][:1]),
            "adapter": self._module(adapter, "adapter"),
            "restoration": self._module(Restoration, "restoration"),
            "restored": self._returned(Restoration.restore),
        }

    @property
    def _tau(self) -> float:
        return next(term.tau for term in self.spec.distill if isinstance(term, LD))

    def _calls(self, function: Callable[..., Any]) -> tuple[Tensor, ...]:
        """What a function returned in the step; a list of one tensor counts as that tensor."""
        return tuple(value[0] if isinstance(value, list) else value for value in self.found[name_of(function)])

    def _returned(self, function: Callable[..., Any]) -> Quantity:
        return Quantity(name_of(function), self._calls(function))

    def _module(self, maker: Callable[..., Any], key: str) -> Quantity:
        takes, gives = self.through[key]
        return Quantity(name_of(maker), (gives,), takes=takes)

    def _labels(self) -> Quantity:
        code, labels = f"{name_of(Batch)}.labels", self.labels
        if labels.is_floating_point():
            return Quantity(code, (labels,))
        return Quantity(code, (F.one_hot(labels, self.spec.dataset.classes),), stored=tuple(labels.shape))


def name_of(thing: Callable[..., Any]) -> str:
    """Return the dotted name by which a class, function or method can be imported."""
    return f"{thing.__module__}.{thing.__qualname__}"


@contextlib.contextmanager
def returned(*functions: Callable[..., Any]) -> Iterator[dict[str, list[Any]]]:
    """Collect, by dotted name, what functions return while the block runs, whoever calls them."""
    codes: dict[CodeType, str] = {function.__code__: name_of(function) for function in functions}
    found: dict[str, list[Any]] = {name: [] for name in codes.values()}

    def look(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and frame.f_code in codes:
            found[codes[frame.f_code]].append(value)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def passed(modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Collect what goes into modules of one input and what comes out while the block runs, by the given keys."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with contextlib.ExitStack() as stack:
        for key, module in modules.items():

            def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor, key: str = key) -> None:
                found[key] = (inputs[0], output)

            stack.enter_context(module.register_forward_hook(keep))
        yield found
