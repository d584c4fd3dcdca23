"""The training loop: one for every network, method and scale."""

from __future__ import annotations

from pathlib import Path

import torch

from bkdsnn.config import Recipe, RunSpec
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.core.progress import Progress, log
from bkdsnn.data.loader import Loader
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.models import Network
from bkdsnn.models.finished import finished_network
from bkdsnn.runs import checkpoint
from bkdsnn.runs.checkpoint import Position
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.saver import Saver
from bkdsnn.runs.schema import Epoch
from bkdsnn.runs.slices import Slice
from bkdsnn.training.announcement import announcement
from bkdsnn.training.evaluate import Evaluation, evaluate
from bkdsnn.training.meter import Meter
from bkdsnn.training.optim import learning_rate
from bkdsnn.training.sources import load_source
from bkdsnn.training.step import Step, build


def train(
    spec: RunSpec,
    recipe: Recipe,
    folder: RunFolder,
    loader: Loader,
    device: torch.device,
    time_slice: Slice,
    resources: Path,
    group: Group = ALONE,
    recompute: bool = False,
) -> tuple[Network, Evaluation, list[Epoch]]:
    """Train to the end, or save a checkpoint and raise `Interrupted` when `time_slice` ends.

    Training resumes from the run's checkpoint. Without one it starts from the weights of the run's source, if it has
    one (published weights are in the folder `resources`), else from random weights. Returns the student, its evaluation
    after the last epoch, and the history (one record per epoch). Raises `UserError` for a checkpoint of another run, a
    loss that is not finite, and less data than one batch. All processes of a `group` return the same values; only the
    first of them writes files. `recompute` trades time for memory, see `models.recomputation`.
    """
    if not loader.steps:
        raise UserError(
            f"'batch_size' is {recipe.batch_size}, expected {loader.train_size} or less, all training samples"
        )
    teacher = load_teacher(spec, folder, device)
    student, criterion = build(spec, teacher, device, recompute)
    if spec.source:
        load_source(student, spec, folder, resources)
    step = Step(spec, recipe, student, criterion, teacher, group)
    for line in announcement(spec, recipe, student, loader, folder) if group.main else ():
        log.info("%s: %s", spec.name, line)
    with group.first_alone():  # it may have to move a damaged checkpoint aside
        at = checkpoint.resume(folder.checkpoint, spec.digest, *step.state)
    if group.main:
        folder.write_history(at.history)
    saver = Saver(folder, step.state, writes=group.main)
    progress = Progress(spec.name, recipe.total_epochs, loader.steps, at.epoch + at.step / loader.steps)
    evaluation = None

    while at.epoch < recipe.total_epochs:
        step.student.train()
        for settings in step.optimizer.param_groups:
            settings["lr"] = learning_rate(recipe, at.epoch)
        meter = Meter(folder, at, group)
        for batch in loader.train(at.epoch, at.step):
            losses = step(batch, at)
            at.step += 1
            meter.add(losses)
            progress.step(at.epoch, at.step)
            over, due = group.any(time_slice.over, saver.due)
            if over or due:
                meter.flush()
                saver.save(at)
            if over:
                raise Interrupted(f"{spec.name}: saved at epoch {at.epoch + 1}, step {at.step}; run again to continue")
        meter.flush()
        evaluation = evaluate(step.student, loader, group)
        record = meter.record(evaluation.top1, recipe, device)
        if group.main:
            folder.append_history(record)
        progress.epoch(record.epoch, record.losses, record.top1)
        at = Position(epoch=at.epoch + 1, history=[*at.history, record])

    saver.save(at)  # if writing the results fails, the next attempt need not train again
    return step.student, evaluation or evaluate(step.student, loader, group), at.history


def load_teacher(spec: RunSpec, folder: RunFolder, device: torch.device) -> Network | None:
    """Return the trained teacher in evaluation mode with frozen parameters, or None for a run without a teacher."""
    if spec.teacher is None:
        return None
    return finished_network(spec.teacher, folder.of(spec.teacher).path, device)
