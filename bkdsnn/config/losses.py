"""Task losses and distillation terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from bkdsnn.config import own
from bkdsnn.config.identity import Part


class CrossEntropy(Part):
    """Cross-entropy of the time-averaged logits (Eq. 6, first term)."""

    method: Literal["ce"] = "ce"


class TET(Part):
    """Temporal efficient training: (1 - mse_weight) mean_t CE(y_t) + mse_weight mean_t MSE(y_t, target)."""

    method: Literal["tet"] = "tet"
    mse_weight: float = Field(default=0.05, ge=0, le=1)
    target: float = 1.0


class LD(Part):
    """Logits distillation, Eqs. 7-8; `focal` adds the weighting that the published code applies."""

    method: Literal["ld"] = "ld"
    weight: float = Field(default=1.0, ge=0, description="w_LD")
    tau: float = Field(default=2.0, gt=0, description="temperature")
    focal: bool = False


class HardLD(Part):
    """Cross-entropy between a second head and the teacher's predicted class (DeiT, Touvron et al., 2021)."""

    method: Literal["hard-ld"] = "hard-ld"
    weight: float = Field(default=1.0, ge=0)


class BKD(Part):
    """Blurred knowledge distillation, Eqs. 2-5.

    `target` is the teacher's feature map, or the vector before its last layer, with which the spatial mean of the
    restored map is compared (published code, for Transformers; D-003).
    """

    method: Literal["bkd"] = "bkd"
    weight: float = Field(ge=0, description="w_BKD")
    blur_ratio: float = Field(default=0.15, ge=0, lt=1, description="lambda")
    mask: Literal["channel", "pixel"] = "channel"
    restoration: bool = Field(default=True, description="with the block G")
    reduction: Literal["batch-mean", "sum"] = "batch-mean"
    target: Literal["map", "vector"] = "map"
    swapped: bool = Field(
        default=False, description="blur and restore the teacher's map to be the student's (published code, events)"
    )

    @model_validator(mode="after")
    def _swaps_maps(self) -> BKD:
        if self.swapped and self.target != "map":
            raise ValueError("'swapped' compares maps; leave out 'target: vector'")
        return self


class LayerWise(Part):
    """Options of the methods that compare features layer by layer.

    `blur_ratio` replaces the method's own comparison by L_BKD with that lambda (table 4c).
    """

    weight: float = Field(ge=0, description="of the feature part")
    blur_ratio: float | None = Field(default=None, ge=0, lt=1, description="lambda")
    published: bool = Field(default=False, description="the bare squared error of the authors' upload")

    @model_validator(mode="after")
    def _one_comparison(self) -> LayerWise:
        if self.published and self.blur_ratio is not None:
            raise ValueError("'published' and 'blur_ratio' exclude each other: each replaces the comparison")
        return self


class KDSNN(LayerWise):
    """KDSNN: compares logits, and the features of every stage or (`layers: last`) the one before the last layer."""

    method: Literal["kdsnn"] = "kdsnn"
    logits_weight: float = Field(default=1.0, ge=0)
    tau: float = Field(default=2.0, gt=0)
    layers: Literal["all", "last"] = "all"


class LaSNN(LayerWise):
    """LaSNN: compares the spatial attention maps of every stage."""

    method: Literal["lasnn"] = "lasnn"


class OwnLoss(own.Own):
    """Base of a loss of the user's own: `build(student, teacher)` takes the taps' shapes, see `distill.method`."""

    method: str


TaskLoss = Annotated[CrossEntropy | TET, Field(discriminator="method"), own.or_own("method"), SerializeAsAny()]
Term = Annotated[
    LD | HardLD | BKD | KDSNN | LaSNN, Field(discriminator="method"), own.or_own("method"), SerializeAsAny()
]
