"""The first lines of a training log: a summary of the network, its losses, recipe, data and teacher."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from bkdsnn import models
from bkdsnn.config import Recipe, RunSpec, TaskLoss, Term
from bkdsnn.data.loader import Loader
from bkdsnn.runs import schema
from bkdsnn.runs.run_folder import RunFolder


def announcement(spec: RunSpec, recipe: Recipe, network: nn.Module, loader: Loader, folder: RunFolder) -> Iterator[str]:
    """Give a line each on the network, the losses, the recipe, the data, and the teacher if there is one."""
    net, data = spec.network, spec.dataset
    of_time = f"T = {net.timesteps}" if net.spiking else "no time-steps"
    yield f"network {net.name} ({net.family}, {net.form}), {models.count_parameters(network):,} parameters, {of_time}"
    yield f"losses {', '.join(map(_loss, (spec.loss, *spec.distill)))}"
    yield f"recipe {_recipe(recipe, loader.steps)}"
    made = ", made here in place of real data" if data.embedded else ""
    size = f"{loader.train_size:,} training and {loader.test_size:,} test samples"
    yield f"data {data.label or data.name}, {size}, {data.classes} classes{made}"
    if spec.teacher:
        metrics = schema.read(schema.Metrics, folder.of(spec.teacher).path / "metrics.json")
        yield f"teacher {spec.teacher.name}, top-1 {metrics.top1.last:.2f} %"


def _loss(loss: TaskLoss | Term) -> str:
    """A loss with its options, such as `bkd (weight 0.0007, blur_ratio 0.15)`."""
    stated = ", ".join(f"{key} {getattr(loss, key)}" for key in type(loss).model_fields if key in _reported(loss))
    return f"{loss.method} ({stated})" if stated else loss.method


def _reported(loss: TaskLoss | Term) -> set[str]:
    """Names of the options to report: the weight, and every option that differs from its default."""
    options = {key: value.default for key, value in type(loss).model_fields.items() if key != "method"}
    return {key for key, value in options.items() if key == "weight" or getattr(loss, key) != value}


def _recipe(recipe: Recipe, steps: int) -> str:
    cooldown = f" and {recipe.cooldown_epochs} more" if recipe.cooldown_epochs else ""
    warmup = f"warm-up {recipe.warmup_epochs} epochs, then " if recipe.warmup_epochs else ""
    return (
        f"{recipe.epochs} epochs{cooldown} of {steps} batches of {recipe.batch_size}, {recipe.optimizer}, "
        f"lr {recipe.lr:g} ({warmup}cosine down to {recipe.min_lr:g}), weight decay {recipe.weight_decay:g}"
    )
