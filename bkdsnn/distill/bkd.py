"""Blurred knowledge distillation, Eqs. 2-5: restore the teacher's feature from a partly erased one of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from bkdsnn.distill.features import Shapes, pair_last, space_mean, squared_error, time_mean
from bkdsnn.distill.method import Method
from bkdsnn.distill.restoration import Restoration
from bkdsnn.models.outputs import Outputs
from bkdsnn.spec import BKD


class BKDLoss(Method):
    """w_BKD |G(f_adp(F) * B) - F_tea|^2, with F the time average (Eq. 3) of the feature before the last layer.

    Target `vector` compares the mean of G(...) over places with the teacher's `pooled` vector instead, as wide as its
    last feature, and needs no feature of the teacher.
    """

    def __init__(self, options: BKD, student: Shapes, teacher: Shapes) -> None:
        to_map = options.target == "map"
        pair = pair_last("bkd", student, teacher, resampled=to_map)
        super().__init__([pair])
        if not to_map:
            self.teacher_taps = ()
        self.options = options
        self.restoration = Restoration(pair.teacher_width, options.blur_ratio, options.mask, block=options.restoration)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `bkd`; one mask is drawn from `blur`."""
        (feature,) = self.adapted(student)
        restored = self.restoration.restore(feature, blur)
        if self.options.target == "map":
            (target,) = self.targets(teacher, [restored])
        else:
            restored, target = space_mean(restored), time_mean(teacher.pooled).detach()
        return {"bkd": self.options.weight * squared_error(restored, target, self.options.reduction)}
