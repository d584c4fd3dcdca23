"""The shape of a method."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bkdsnn.distill.features import Pair, adapter, time_mean
from bkdsnn.models.outputs import Outputs


class Method(nn.Module):
    """One part of the training loss, with whatever it trains beside the student.

    A subclass is built as `Class(options, student_shapes, teacher_shapes)`, refusing there what cannot be compared,
    and called as `(student, teacher, labels, blur)`; it returns named, weighted 0-dim losses. `taps` and
    `teacher_taps` name the features that it needs.
    """

    def __init__(self, pairs: Sequence[Pair] = (), adapt: bool = True) -> None:
        super().__init__()
        self.taps = tuple(pair.tap for pair in pairs)
        self.teacher_taps = tuple(pair.teacher_tap for pair in pairs)
        self.adapters = nn.ModuleList(adapter(pair) if adapt else nn.Identity() for pair in pairs)

    def features(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Return the time averages of each pair: the student's (B, C_tea, h, w) after f_adp, the teacher's a constant.

        Built with `adapt=False`, the student's keeps its own width: (B, C_stu, h, w).
        """
        own = [adapt(time_mean(student.features[tap])) for tap, adapt in zip(self.taps, self.adapters)]
        teachers = [time_mean(teacher.features[tap]).detach() for tap in self.teacher_taps]
        return list(zip(own, teachers))
