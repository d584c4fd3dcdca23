"""One training step on one batch, shared by the training loop, calibration, benchmarks and the test of table 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bkdsnn import models
from bkdsnn.config import Recipe, RunSpec
from bkdsnn.core import streams
from bkdsnn.data.augment import Erasing
from bkdsnn.data.loader import Batch
from bkdsnn.data.mixing import Mixing
from bkdsnn.distill import Criterion
from bkdsnn.distill.correction import Correction
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.models import Network, Outputs, recomputation
from bkdsnn.runs.checkpoint import Position
from bkdsnn.training.optim import make_optimizer

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Step:
    """One optimisation step: update student and criterion on a batch, with the teacher's outputs if there is a teacher.

    All three must already be on the training device. The teacher is frozen here and put into evaluation mode (D-144).
    The recipe's precision applies on a GPU; a CPU always computes in float32 (D-133). Each process of a `group` trains
    on its own rows of the same global batch.
    """

    def __init__(
        self,
        spec: RunSpec,
        recipe: Recipe,
        student: Network,
        criterion: Criterion,
        teacher: Network | None,
        group: Group = ALONE,
    ) -> None:
        self.student, self.criterion, self.group, self.seed = student, criterion, group, spec.root
        self.teacher = teacher.requires_grad_(False).eval() if teacher else None
        device = next(student.parameters()).device
        self.mixing = Mixing(recipe, spec.dataset.classes, spec.root)
        self.erasing = Erasing(recipe.augment, spec.root, device, mixed=True)
        self.half = torch.autocast(device.type, DTYPES[recipe.precision], enabled=device.type == "cuda")
        criterion.share(group)
        if recipe.sync_batch_norm:
            from bkdsnn.models.synced import synchronise

            synchronise(student, group)
        self.trained = group.wrapped(Trained(student, criterion), device)
        self.optimizer = make_optimizer(recipe, [*student.parameters(), *criterion.parameters()])
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and recipe.precision == "fp16")
        self.correction = Correction(spec, student, group)

    @property
    def state(self) -> tuple[dict[str, nn.Module], torch.optim.Optimizer, torch.amp.GradScaler]:
        """The state to checkpoint, in the argument order of `checkpoint.save` and `checkpoint.resume`."""
        return {"student": self.student, "criterion": self.criterion}, self.optimizer, self.scaler

    def __call__(self, batch: Batch, at: Position) -> dict[str, Tensor]:
        """Train on the global batch of step `at.step` of epoch `at.epoch`; return the losses of this process's rows.

        If the recipe mixes images (mixup, cutmix) or erases mixed ones, `batch.images` is overwritten. Of `at` only
        `at.gradients` changes: a run with the term `bkd` measures it in each epoch's first step (see `Correction`).
        """
        mixed = self.mixing(batch, at.epoch, at.step)
        self.erasing(mixed.images, at.epoch, at.step)  # `mixed.shown` is the same tensor: clips are never erased
        rows = Batch(*map(self.group.rows, mixed))
        with self.correction.watching(at):
            losses = self.losses(rows, at)
        self.correction.measure(at, losses, self.scaler)
        self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def losses(self, batch: Batch, at: Position) -> dict[str, Tensor]:
        """Return the weighted losses (0-dim) by name for an already mixed batch; their sum is minimised."""
        with self.half:
            target = teacher_outputs(self.teacher, batch.teacher_input, self.criterion.teacher_taps)
            blur = streams.generator(self.seed, "blur", at.epoch, at.step)
            losses: dict[str, Tensor] = self.trained(batch.images, target, batch.labels, blur)
            return losses


class Trained(nn.Module):
    """Student and criterion as one module, so that several processes can average the gradients of both."""

    def __init__(self, student: Network, criterion: Criterion) -> None:
        super().__init__()
        self.student, self.criterion = student, criterion

    def forward(self, images: Tensor, target: Outputs | None, labels: Tensor, blur: torch.Generator) -> Any:
        """Return the losses (0-dim) by name for images (B C H W) or frames (B T C H W)."""
        return self.criterion(self.student(images, self.criterion.taps), target, labels, blur)


@torch.inference_mode()
def teacher_outputs(teacher: Network | None, teacher_input: Tensor, taps: tuple[str, ...]) -> Outputs | None:
    """Return the teacher's outputs, without gradient, for the teacher input (B C H W, or frames B T C H W).

    They are inference tensors, which autograd cannot save for backward; a loss first has to derive an ordinary tensor
    from them (`time_mean` does).
    """
    return teacher(teacher_input, taps) if teacher else None


def build(
    spec: RunSpec, teacher: Network | None, device: torch.device, recompute: bool = False
) -> tuple[Network, Criterion]:
    """Build the student and its criterion; for the same seed and role every run starts from the same weights.

    `recompute` trades time for memory in the student's backward pass, see `models.recomputation`.
    """
    size = spec.dataset.image_size
    teacher_shapes = models.feature_shapes(teacher, size) if teacher else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(spec.root, "init", 0))
        student = models.build(spec.network, spec.dataset)
        torch.manual_seed(streams.key(spec.root, "init", 1))
        criterion = Criterion(spec, models.feature_shapes(student, size), teacher_shapes)
    if recompute:
        recomputation.recompute(student)
    return student.to(device), criterion.to(device)
