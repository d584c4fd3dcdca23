"""How a network is trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from bkdsnn.config.datasets import Augment
from bkdsnn.config.identity import Part


class Mix(Part):
    """Mixing two images and their labels: mixup and cutmix as in timm, with one random draw per batch."""

    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup's Beta distribution; 0: no mixup")
    cutmix: float = Field(default=0.0, ge=0, description="alpha of cutmix's; 0: no cutmix")
    probability: float = Field(default=1.0, ge=0, le=1, description="share of the batches that are mixed")
    switch: float = Field(default=0.5, ge=0, le=1, description="probability of cutmix where both are on")
    off_epoch: int | None = Field(default=None, gt=0, description="first epoch (from 0) without mixing")

    @model_validator(mode="after")
    def _mixes(self) -> Mix:
        if not (self.mixup or self.cutmix):
            raise ValueError("'mix' needs 'mixup' or 'cutmix' above 0; leave it out to mix nothing")
        return self


class Recipe(Part):
    """How a network is trained.

    The learning rate changes once per epoch, as in timm's cosine schedule: first the warm-up, then the cosine, then the
    cool-down. If norms are synchronised, results depend on the number of processes by rounding alone; otherwise each
    process normalises by its own rows of the batch (D-113).

    The `version` of this class also stands for the training loop.
    """

    outside: ClassVar[frozenset[str]] = frozenset({"floor"})
    epochs: int = Field(gt=0, description="length of the cosine schedule of the learning rate, warm-up included")
    batch_size: int = Field(gt=0, description="images per training step, over all processes")
    optimizer: Literal["sgd", "adam", "adamw", "lamb"] = Field(description="rule that updates the weights")
    lr: float = Field(gt=0, description="highest learning rate, reached after the warm-up")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd; the other optimizers ignore it")
    weight_decay: float = Field(default=0.0, ge=0, description="factor of the weight decay")
    decay_vectors: bool = Field(default=True, description="weight decay also on biases and scales (1-D parameters)")
    warmup_epochs: int = Field(default=0, ge=0, description="first epochs, in which the learning rate rises linearly")
    warmup_lr: float = Field(default=0.0, ge=0, description="learning rate at which the warm-up begins")
    min_lr: float = Field(default=0.0, ge=0, description="learning rate at which the cosine ends")
    cooldown_epochs: int = Field(default=0, ge=0, description="epochs at min_lr after the cosine, beyond 'epochs'")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of a label spread over all classes")
    mix: Mix | None = Field(default=None, description="mixing of images and labels; none: no mixing")
    processes: int = Field(default=1, ge=1, description="GPUs that share each batch, a process each")
    sync_batch_norm: bool = Field(default=False, description="statistics of batch norms over all processes' rows")
    precision: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="autocast type where there is a GPU")
    augment: Augment = Field(default=Augment(), description="changes to the training images, at random")
    floor: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="lowest top-1 accuracy (%) of a network that may teach; none: more than guessing; 0: any may",
    )
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
