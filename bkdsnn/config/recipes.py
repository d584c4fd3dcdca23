"""How a network is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bkdsnn.config.datasets import Augment
from bkdsnn.config.identity import Part


class Mix(Part):
    """Mixing two images and their labels: mixup and cutmix as in timm, with one random draw per batch."""

    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup's Beta distribution; 0: no mixup")
    cutmix: float = Field(default=0.0, ge=0, description="alpha of cutmix's; 0: no cutmix")
    probability: float = Field(default=1.0, ge=0, le=1)
    switch: float = Field(default=0.5, ge=0, le=1, description="probability of cutmix where both are on")
    off_epoch: int | None = Field(default=None, gt=0, description="first epoch (from 0) without mixing")

    @model_validator(mode="after")
    def _mixes(self) -> Mix:
        if not (self.mixup or self.cutmix):
            raise ValueError("'mix' needs 'mixup' or 'cutmix' above 0; leave it out to mix nothing")
        return self


class Recipe(Part):
    """How a network is trained.

    The learning rate changes once per epoch, as in timm's cosine schedule: during the first `warmup_epochs` it rises
    linearly from `warmup_lr`, then it follows the cosine of `epochs` epochs (warm-up included) down to `min_lr`, then
    it stays at `min_lr` for `cooldown_epochs` more.

    `batch_size` is the total over all `processes`. If norms are synchronised, results depend on the number of processes
    by rounding alone; otherwise each process normalises by its own rows of the batch (D-113).

    The `version` of this class also stands for the training loop.
    """

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: Literal["sgd", "adam", "adamw", "lamb"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_vectors: bool = Field(default=True, description="weight decay also on biases and scales (1-D parameters)")
    warmup_epochs: int = Field(default=0, ge=0)
    warmup_lr: float = Field(default=0.0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)
    cooldown_epochs: int = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mix: Mix | None = None
    processes: int = Field(default=1, ge=1, description="GPUs that share each batch, a process each")
    sync_batch_norm: bool = Field(default=False, description="statistics of batch norms over all processes' rows")
    precision: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="autocast type where there is a GPU")
    augment: Augment = Augment()
    source: str = Field(default="", exclude=True, description="where the values come from")

    @property
    def total_epochs(self) -> int:
        """Number of epochs that are trained: `epochs` of the schedule plus `cooldown_epochs`."""
        return self.epochs + self.cooldown_epochs

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"'warmup_epochs' is {self.warmup_epochs}, must be less than 'epochs', {self.epochs}")
        if self.batch_size % self.processes:
            raise ValueError(f"'batch_size' is {self.batch_size}, no multiple of 'processes', {self.processes}")
        if self.sync_batch_norm and self.processes == 1:
            raise ValueError("'sync_batch_norm' is on, but 'processes' is 1; leave it out or ask for more processes")
        return self
