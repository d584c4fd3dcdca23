"""Optimisers and the learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from bkdsnn.config import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; student, restoration block and adapters share its groups (D-036).

    Without `decay_vectors` there are two groups, the second of which is not decayed: parameters of at most one
    dimension, as in timm's recipes. LAMB is timm's, its trust ratio at most 1, as in Meta-SpikeFormer's code.

    The others are torch's, fused where parameters lie on a GPU: there the step itself finds out whether a gradient
    overflowed, and nobody waits for it. On a CPU a fused step rounds otherwise, and torch's default stays.
    """
    everything = list(parameters)
    fused = True if everything[0].is_cuda else None
    groups = everything if recipe.decay_vectors else _groups(everything)
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return sgd(groups, recipe.momentum, fused, common)
    if recipe.optimizer == "lamb":
        from timm.optim import Lamb

        return Lamb(groups, trust_clip=True, **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(groups, fused=fused, **common)


def sgd(groups: Any, momentum: float, fused: bool | None, common: dict[str, Any]) -> torch.optim.SGD:
    """Return SGD; a fused one begins with a momentum of 0, which is what torch computes as well.

    Torch makes it at the first step, but a fused step that is left out, for a gradient overflowed, leaves it unset.
    """
    optimizer = torch.optim.SGD(groups, momentum=momentum, fused=fused, **common)
    if momentum and fused:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _groups(everything: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    arrays = [parameter for parameter in everything if parameter.ndim > 1]
    vectors = [parameter for parameter in everything if parameter.ndim <= 1]
    return [{"params": arrays}, {"params": vectors, "weight_decay": 0.0}]


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the learning rate of an epoch (from 0), constant within it; that of timm's CosineLRScheduler.

    Linear from `warmup_lr` during warm-up; then the cosine that began at epoch 0 (not where warm-up ended), from `lr`
    to `min_lr` at epoch `epochs`; from there on `min_lr`.
    """
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr + epoch * (recipe.lr - recipe.warmup_lr) / recipe.warmup_epochs
    phase = min(epoch / recipe.epochs, 1.0)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * phase)) / 2
