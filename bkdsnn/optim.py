"""Optimisers and the learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bkdsnn.spec import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; student, restoration block and adapters share its groups.

    Without `decay_vectors` there are two groups, the second of which is not decayed: parameters of at most one
    dimension, as in timm's recipes. LAMB is timm's, its trust ratio at most 1, as in Meta-SpikeFormer's code.
    """
    groups = list(parameters) if recipe.decay_vectors else _groups(parameters)
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **common)
    if recipe.optimizer == "lamb":
        from timm.optim import Lamb

        return Lamb(groups, trust_clip=True, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer](groups, **common)


def _groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    everything = list(parameters)
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
