"""Optimisers and the learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from bkdsnn.config import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; student, restoration block and adapters share its parameter groups (D-036).

    Without `decay_vectors` there are two groups: parameters of at most one dimension (biases, norms) go into the second
    and get no weight decay, as in timm's recipes. LAMB is timm's, its trust ratio at most 1, as in Meta-SpikeFormer's
    code. The others are torch's.

    On a GPU they are fused: the step kernel itself checks for overflowed gradients, so that the CPU need not wait for
    the GPU. On a CPU a fused step rounds differently, so torch's default is kept.
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
    """Return SGD; for fused SGD the momentum buffers are created here, as zeros, which changes no result.

    Torch would create them in the first step, but leaves them uninitialised if that step is skipped because a gradient
    overflowed.
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
    """Return the learning rate of an epoch (counted from 0), constant within it, as timm's CosineLRScheduler has it.

    During warm-up it rises linearly from `warmup_lr`. Then it follows the cosine from `lr` at epoch 0 (not at the end
    of warm-up) to `min_lr` at epoch `epochs`, and stays at `min_lr`.
    """
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr + epoch * (recipe.lr - recipe.warmup_lr) / recipe.warmup_epochs
    phase = min(epoch / recipe.epochs, 1.0)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * phase)) / 2
