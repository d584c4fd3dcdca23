"""Blurred knowledge distillation, Eqs. 2-5: restore the teacher's feature from the student's, partly erased."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bkdsnn.config import BKD
from bkdsnn.distill.features import Shapes, adapter, pair_last, space_mean, squared_error, time_mean
from bkdsnn.distill.method import Method
from bkdsnn.distill.restoration import Restoration
from bkdsnn.models.outputs import Outputs


class BKDLoss(Method):
    """w_BKD |G(f_adp(F) * B) - F_tea|^2, with F the time average (Eq. 3) of the feature before the last layer.

    Mask, restoration block and the constants 7e-5 and 0.15 are those of MGD (Masked Generative Distillation, Yang et
    al., ECCV 2022), whose class the authors' code names and whom the paper does not cite (D-182).

    Target `map`, our choice for all networks, compares feature maps (D-003). `vector` instead compares the mean of
    G(...) over spatial positions with the teacher's `pooled` vector, which has the same width (D-016); the teacher then
    need not return features.

    `swapped` exchanges the roles as the published code for event data does (D-091): w_BKD |G(f_adp(F_tea) * B) - F|^2,
    where f_adp maps to the student's width and G has that width, so the student's feature becomes one that can be
    restored from the teacher's. F_tea is resampled to the student's grid in this case too.
    """

    def __init__(self, options: BKD, student: Shapes, teacher: Shapes) -> None:
        to_map = options.target == "map"
        pair = pair_last("bkd", student, teacher, resampled=to_map)
        super().__init__([pair], adapt=not options.swapped)
        if not to_map:
            self.teacher_taps = ()
        if options.swapped:
            pair = pair.exchanged
            self.adapters = nn.ModuleList([adapter(pair)])
        self.options = options
        self.restoration = Restoration(pair.teacher_width, options.blur_ratio, options.mask, block=options.restoration)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return `bkd`; one mask is drawn from `blur`."""
        compared = self._swapped if self.options.swapped else self._restored
        restored, target = compared(student, teacher, blur)
        return {"bkd": self.options.weight * squared_error(restored, target, self.options.reduction)}

    def _restored(self, student: Outputs, teacher: Outputs, blur: torch.Generator) -> tuple[Tensor, Tensor]:
        (feature,) = self.adapted(student)
        restored = self.restoration.restore(feature, blur)
        if self.options.target == "map":
            (target,) = self.targets(teacher, [restored])
            return restored, target
        return space_mean(restored), time_mean(teacher.pooled).detach()

    def _swapped(self, student: Outputs, teacher: Outputs, blur: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the restored teacher map and, as its target, the student's, through which alone the student learns."""
        own = time_mean(student.features[self.taps[0]])
        (theirs,) = self.targets(teacher, [own])
        return self.restoration.restore(self.adapters[0](theirs), blur), own
