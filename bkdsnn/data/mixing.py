"""Mixing two images and their labels, and smoothing of labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bkdsnn.config import Mix, Recipe
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import seeded
from bkdsnn.data.loader import Batch

if TYPE_CHECKING:
    from timm.data.mixup import Mixup


class Mixing:
    """Applies a recipe's `mix` and `label_smoothing` to training batches of a dataset with K `classes`.

    Mixup (Zhang et al., ICLR 2018) and cutmix (Yun et al., ICCV 2019) are timm's: there is one draw per batch, image i
    is mixed with image B - 1 - i, and so are their smoothed labels (D-086, D-087). Raises UserError for `mix` with an
    odd `batch_size`.
    """

    def __init__(self, recipe: Recipe, classes: int, seed: int) -> None:
        if recipe.mix and recipe.batch_size % 2:
            raise UserError(
                f"recipe key 'batch_size' is {recipe.batch_size}; 'mix' pairs the images of a batch and needs an even "
                "number: change one, or leave 'mix' out"
            )
        self._smoothing, self._classes, self._seed = recipe.label_smoothing, classes, seed
        self._soft = bool(recipe.mix or recipe.label_smoothing)
        self._mixup = _mixup(recipe.mix, recipe.label_smoothing, classes) if recipe.mix else None
        self._end = recipe.mix.off_epoch or math.inf if recipe.mix else 0

    def __call__(self, batch: Batch, epoch: int, step: int) -> Batch:
        """Return the batch with mixed images, which overwrite the given ones, and targets, float32 (B, K).

        The teacher input is mixed by the same draws, and so are all frames of a recording. The result is a pure
        function of (seed, epoch, step). If the recipe neither mixes nor smooths, the batch is returned unchanged, with
        labels int64 (B,). From `off_epoch` on images are not mixed, but targets remain (B, K).
        """
        if self._mixup and epoch < self._end:
            return self._mixed(batch, self._mixup, epoch, step)
        return batch._replace(labels=smoothed(batch.labels, self._classes, self._smoothing)) if self._soft else batch

    def _mixed(self, batch: Batch, mixup: Mixup, epoch: int, step: int) -> Batch:
        versions = []
        for version in batch[:1] if batch.teacher_input is batch.images else batch[:2]:
            with seeded(self._seed, "mixing", epoch, step):
                mixed, targets = mixup(version.flatten(1, -3), batch.labels)  # B, C, H, W or B, T C, H, W
            versions.append(mixed.view_as(version))
        return Batch(versions[0], versions[-1], targets)


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return targets (B, K): `smoothing` spread over all K classes (Szegedy et al., 2016), the rest at the label."""
    rest = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return rest.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def _mixup(mix: Mix, smoothing: float, classes: int) -> Mixup:
    from timm.data.mixup import Mixup

    return Mixup(
        mixup_alpha=mix.mixup,
        cutmix_alpha=mix.cutmix,
        prob=mix.probability,
        switch_prob=mix.switch,
        label_smoothing=smoothing,
        num_classes=classes,
    )
