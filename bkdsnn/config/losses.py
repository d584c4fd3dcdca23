"""Task losses and distillation terms."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, SerializeAsAny, model_validator

from bkdsnn.config import own
from bkdsnn.config.identity import Part


class CrossEntropy(Part):
    """Cross-entropy of the time-averaged logits (Eq. 6, first term)."""

    method: Literal["ce"] = Field(default="ce", description="selects this loss")


class TET(Part):
    """Temporal efficient training: (1 - mse_weight) mean_t CE(y_t) + mse_weight mean_t MSE(y_t, target)."""

    method: Literal["tet"] = Field(default="tet", description="selects this loss")
    mse_weight: float = Field(default=0.05, ge=0, le=1, description="share of the squared error in the loss")
    target: float = Field(default=1.0, description="the value that the squared error pulls all logits towards")


class LD(Part):
    """Logits distillation, Eqs. 7-8."""

    method: Literal["ld"] = Field(default="ld", description="selects this loss")
    weight: float = Field(default=1.0, ge=0, description="w_LD")
    tau: float = Field(default=2.0, gt=0, description="temperature")
    focal: bool = Field(default=False, description="weight each image as the published code does (D-018)")


class HardLD(Part):
    """Cross-entropy between a second head and the teacher's predicted class (DeiT, Touvron et al., 2021)."""

    method: Literal["hard-ld"] = Field(default="hard-ld", description="selects this loss")
    weight: float = Field(default=1.0, ge=0, description="factor before the cross-entropy of the second head")


class BKD(Part):
    """Blurred knowledge distillation, Eqs. 2-5."""

    method: Literal["bkd"] = Field(default="bkd", description="selects this loss")
    weight: float = Field(ge=0, description="w_BKD")
    blur_ratio: float = Field(default=0.15, ge=0, lt=1, description="lambda, probability of being erased by the mask")
    mask: Literal["channel", "pixel"] = Field(
        default="channel", description="erase whole channels, or single spatial positions in all channels"
    )
    restoration: bool = Field(default=True, description="restore the blurred map by the block G; false: without G")
    reduction: Literal["batch-mean", "sum"] = Field(
        default="batch-mean", description="squared errors are summed per image, and averaged or summed over the batch"
    )
    target: Literal["map", "vector"] = Field(
        default="map",
        description="what is restored: the teacher's feature map; or the vector before its last layer, compared with "
        "the spatial mean of the restored map (published code, for Transformers; D-003)",
    )
    swapped: bool = Field(
        default=False, description="blur and restore the teacher's map to be the student's (published code, events)"
    )

    @model_validator(mode="after")
    def _swaps_maps(self) -> BKD:
        if self.swapped and self.target != "map":
            raise ValueError("'swapped' compares maps; leave out 'target: vector'")
        return self


class LayerWise(Part):
    """Options of the methods that compare features layer by layer."""

    weight: float = Field(ge=0, description="factor before the comparison of features")
    blur_ratio: float | None = Field(
        default=None, ge=0, lt=1, description="L_BKD with this lambda replaces the method's own comparison (table 4c)"
    )
    published: bool = Field(default=False, description="the bare squared error of the authors' upload")

    @model_validator(mode="after")
    def _one_comparison(self) -> LayerWise:
        if self.published and self.blur_ratio is not None:
            raise ValueError("'published' and 'blur_ratio' exclude each other: each replaces the comparison")
        return self


class KDSNN(LayerWise):
    """KDSNN: compares logits and features."""

    method: Literal["kdsnn"] = Field(default="kdsnn", description="selects this loss")
    logits_weight: float = Field(default=1.0, ge=0, description="factor before the comparison of logits")
    tau: float = Field(default=2.0, gt=0, description="temperature")
    layers: Literal["all", "last"] = Field(
        default="all", description="compare the features of every stage, or only those before the last layer"
    )


class LaSNN(LayerWise):
    """LaSNN: compares the spatial attention maps of every stage."""

    method: Literal["lasnn"] = Field(default="lasnn", description="selects this loss")


class OwnLoss(own.Own):
    """Base of a loss of the user's own: `build(student, teacher)` takes the taps' shapes, see `distill.method`."""

    method: str = Field(description="name of the loss")


TaskLoss = Annotated[CrossEntropy | TET, Field(discriminator="method"), own.or_own("method"), SerializeAsAny()]
Term = Annotated[
    LD | HardLD | BKD | KDSNN | LaSNN, Field(discriminator="method"), own.or_own("method"), SerializeAsAny()
]
TERMS = {term.model_fields["method"].default: term for term in get_args(get_args(Term)[0])}
