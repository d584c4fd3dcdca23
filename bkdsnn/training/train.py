"""The training loop: one for every network, method and scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bkdsnn import models
from bkdsnn.config import Recipe, RunSpec
from bkdsnn.core import streams
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.core.progress import Progress, log
from bkdsnn.data.loader import Loader
from bkdsnn.data.mixing import Mixing
from bkdsnn.distill import Criterion
from bkdsnn.distill.correction import Correction
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.models import Network, Outputs, recomputation
from bkdsnn.runs import checkpoint
from bkdsnn.runs.checkpoint import Position
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.slices import Saver, Slice
from bkdsnn.training.announcement import announcement
from bkdsnn.training.evaluate import Evaluation, evaluate
from bkdsnn.training.meter import Meter
from bkdsnn.training.optim import learning_rate, make_optimizer
from bkdsnn.training.sources import load_source
from bkdsnn.training.trained import shared

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def train(
    spec: RunSpec,
    recipe: Recipe,
    folder: RunFolder,
    loader: Loader,
    device: torch.device,
    part: Slice,
    resources: Path,
    group: Group = ALONE,
    recompute: bool = False,
) -> tuple[Network, Evaluation, list[dict[str, Any]]]:
    """Train to the end, or save and raise `Interrupted` when the slice ends.

    Training begins with the weights of the run's source, if it has one; published ones lie in the folder `resources`.
    Returns the student, its evaluation after the last epoch, and the history (one record an epoch). Raises `UserError`
    for a checkpoint of another run, a loss that is not finite, and less data than one batch. The processes of a `group`
    return the same; the first of them writes. `recompute` saves memory, see `models.recomputation`.
    """
    if not loader.steps:
        raise UserError(f"'batch_size' is {recipe.batch_size}, more than the {loader.train_size} training samples")
    teacher = load_teacher(spec, folder, device)
    student, criterion = build(spec, teacher, device)
    if spec.source:
        load_source(student, spec, folder, resources)
    if recompute:
        recomputation.recompute(student)
    trained = shared(student, criterion, recipe, group, device)
    for line in announcement(spec, recipe, student, loader, folder) if group.main else ():
        log.info("%s: %s", spec.name, line)
    mixing = Mixing(recipe, spec.dataset.classes, spec.seed)
    optimizer = make_optimizer(recipe, [*student.parameters(), *criterion.parameters()])
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and recipe.precision == "fp16")
    correction = Correction(spec, student, group)
    parts = {"student": student, "criterion": criterion}

    def write(at: Position) -> None:
        checkpoint.save(folder.checkpoint, spec.digest, at, parts, optimizer, scaler)
        folder.saved(at.epoch, at.step)

    saver = Saver(write if group.main else lambda at: None)
    with group.first_alone():  # which may have to move a damaged checkpoint aside
        at = checkpoint.resume(folder.checkpoint, spec.digest, parts, optimizer, scaler)
    if group.main:
        folder.write_history(at.history)
    progress = Progress(spec.name, recipe.total_epochs, loader.steps, at.epoch + at.step / loader.steps)
    evaluation = None

    while at.epoch < recipe.total_epochs:
        student.train()
        for settings in optimizer.param_groups:
            settings["lr"] = learning_rate(recipe, at.epoch)
        meter = Meter(folder, at, group)
        for batch in loader.train(at.epoch, at.step):
            images, shown, labels = map(group.rows, mixing(batch, at.epoch, at.step))
            half = torch.autocast(device.type, DTYPES[recipe.precision], enabled=device.type == "cuda")
            with half, correction.watching(at):
                target = imitated(teacher, shown, criterion.teacher_taps)
                losses = trained(images, target, labels, streams.generator(spec.seed, "blur", at.epoch, at.step))
            correction.measure(at, losses, scaler)
            scaler.scale(torch.stack(list(losses.values())).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            meter.add(losses)
            progress.step(at.epoch, at.step)
            over, due = group.any(part.over, saver.due)
            if over or due:
                meter.settle()
                saver.save(at)
            if over:
                raise Interrupted(f"{spec.name}: saved at epoch {at.epoch + 1}, step {at.step}; run again to continue")
        meter.settle()
        evaluation = evaluate(student, loader, group)
        record = meter.record(evaluation.top1, recipe.batch_size, device)
        if group.main:
            folder.append_history(record)
        progress.epoch(record)
        at = Position(epoch=at.epoch + 1, history=[*at.history, record])

    saver.save(at)  # should writing the results fail, the next attempt only evaluates
    return student, evaluation or evaluate(student, loader, group), at.history


def build(spec: RunSpec, teacher: Network | None, device: torch.device) -> tuple[Network, Criterion]:
    """Make the student and its criterion; at one seed every method begins with the same student."""
    size = spec.dataset.image_size
    teacher_shapes = models.feature_shapes(teacher, size) if teacher else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(spec.seed, "init", 0))
        student = models.build(spec.network, spec.dataset)
        torch.manual_seed(streams.key(spec.seed, "init", 1))
        criterion = Criterion(spec, models.feature_shapes(student, size), teacher_shapes)
    return student.to(device), criterion.to(device)


def load_teacher(spec: RunSpec, folder: RunFolder, device: torch.device) -> Network | None:
    """Return the finished teacher in evaluation mode, its parameters frozen; None for a run without one."""
    if spec.teacher is None:
        return None
    teacher = models.build(spec.teacher.network, spec.dataset)
    source = folder.of(spec.teacher)
    checkpoint.load_weights(teacher, source.weights(), str(source.path / "weights.safetensors"))
    return teacher.requires_grad_(False).eval().to(device)


@torch.inference_mode()
def imitated(teacher: Network | None, shown: Tensor, taps: tuple[str, ...]) -> Outputs | None:
    """Return the teacher's outputs for its view (B C H W, or frames B T C H W) of the batch, without gradient.

    They are inference tensors, which autograd refuses to keep: what a loss makes of them (`time_mean`) is not.
    """
    return teacher(shown, taps) if teacher else None
