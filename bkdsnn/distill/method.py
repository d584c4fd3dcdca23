"""The base classes of all methods, that is, of the summands of the training loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bkdsnn.distill.features import Pair, adapter, resample, time_mean
from bkdsnn.models.outputs import Outputs


class Method(nn.Module):
    """One summand of the training loss, with its own trained parameters if it has any (checkpoints: D-038).

    A subclass is built as `Class(options, student_shapes, teacher_shapes)`, where it raises `UserError` for features
    that it cannot compare. It is called as `(student, teacher, labels, blur)` and returns named, weighted 0-dim losses.
    `labels` are classes (B,) of int64, or their probabilities (B, K) (mixup, cutmix, label smoothing). `taps` and
    `teacher_taps` name the features that it needs.
    """

    def __init__(self, pairs: Sequence[Pair] = (), adapt: bool = True) -> None:
        super().__init__()
        self.taps = tuple(pair.tap for pair in pairs)
        self.teacher_taps = tuple(pair.teacher_tap for pair in pairs)
        self.adapters = nn.ModuleList(adapter(pair) if adapt else nn.Identity() for pair in pairs)

    def adapted(self, student: Outputs) -> list[Tensor]:
        """Return the time averages of the student's features after f_adp, (B, C_tea, h, w) each.

        A method built with `adapt=False` leaves their width unchanged: (B, C_stu, h, w).
        """
        return [adapt(time_mean(student.features[tap])) for tap, adapt in zip(self.taps, self.adapters)]

    def targets(self, teacher: Outputs, own: Sequence[Tensor]) -> list[Tensor]:
        """Return the teacher's time-averaged features without gradient, (B, C_tea, h, w), on the grids of `own`."""
        means = [time_mean(teacher.features[tap]).detach() for tap in self.teacher_taps]
        return [resample(mean, feature.shape[-2:]) for mean, feature in zip(means, own)]

    def features(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs of features: the student's (see `adapted`) and the teacher's (see `targets`)."""
        own = self.adapted(student)
        return list(zip(own, self.targets(teacher, own)))


class Comparison(Method):
    """A loss that sums `compare(own, target)`, weighted and 0-dim, over all pairs of features (B, C_tea, h, w)."""

    def __init__(self, name: str, pairs: Sequence[Pair], compare: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(pairs)
        self.name, self.compare = name, compare

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, blur: torch.Generator) -> dict[str, Tensor]:
        """Return the loss under the name of the method."""
        losses = [self.compare(own, target) for own, target in self.features(student, teacher)]
        return {self.name: torch.stack(losses).sum()}
