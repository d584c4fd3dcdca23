"""The training loss: a task loss and distillation terms, one file per method.

`METHODS` is the table from the name in a spec to the class; `docs/methods.md` shows how to add one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bkdsnn.config import OwnLoss, RunSpec, TaskLoss, Term
from bkdsnn.config.own import source
from bkdsnn.core.errors import UserError
from bkdsnn.distill.bkd import BKDLoss
from bkdsnn.distill.ce import CrossEntropyLoss
from bkdsnn.distill.features import Shapes
from bkdsnn.distill.hard import HardLDLoss
from bkdsnn.distill.kdsnn import KDSNNLoss
from bkdsnn.distill.lasnn import LaSNNLoss
from bkdsnn.distill.ld import LDLoss
from bkdsnn.distill.method import Method
from bkdsnn.distill.restoration import Restoration
from bkdsnn.distill.tet import TETLoss
from bkdsnn.machine.distributed import Group
from bkdsnn.models.outputs import Outputs

__all__ = ["METHODS", "Criterion", "Shapes"]

METHODS: dict[str, Callable[..., Method]] = {
    "ce": CrossEntropyLoss,
    "tet": TETLoss,
    "ld": LDLoss,
    "hard-ld": HardLDLoss,
    "bkd": BKDLoss,
    "kdsnn": KDSNNLoss,
    "lasnn": LaSNNLoss,
}


class Criterion(nn.Module):
    """Total loss of a run, Eq. 10, as named summands: the task loss first, then the terms in the order of the spec.

    Its parameters are those of the auxiliary modules (f_adp, G): they are optimised and checkpointed together with the
    student, but are not part of it. They are initialised from torch's global generator. Losses are computed in float32
    even under autocast (the convolutions of f_adp and G do use autocast's type); the teacher's outputs are constants.

    `student` and `teacher` give the shapes of all taps; `teacher` is None without distillation. Raises `UserError`
    when features cannot be compared, or a method is listed twice.
    """

    def __init__(self, spec: RunSpec, student: Shapes, teacher: Shapes | None) -> None:
        super().__init__()
        chosen = (spec.loss, *spec.distill)
        names = [options.method for options in chosen]
        if len(names) > len(set(names)):
            raise UserError(
                f"'distill' of run '{spec.name}' lists a method twice: {', '.join(names)}; keep one of each"
            )
        self.methods = nn.ModuleDict({options.method: _built(options, student, teacher) for options in chosen})
        self.own: dict[str, Any] = {options.method: options for options in chosen if isinstance(options, OwnLoss)}
        self.taps = self._taps("taps")
        self.teacher_taps = self._taps("teacher_taps")

    def _taps(self, attribute: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for method in self.methods.values() for tap in getattr(method, attribute)))

    def share(self, group: Group) -> None:
        """Draw every mask for the global batch of all processes in `group`; each process uses its own rows."""
        for module in self.modules():
            if isinstance(module, Restoration):
                module.group = group

    def forward(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor, blur: torch.Generator
    ) -> dict[str, Tensor]:
        """Return named, weighted 0-dim losses, to be summed.

        `labels` are classes (B,) of int64, or their probabilities (B, K) of float (mixup, cutmix, label smoothing).
        `blur` is the CPU generator of this step, from which methods draw their masks in the order of the spec.
        """
        losses: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            with self.own[name].guarded(f"forward of '{name}'") if name in self.own else contextlib.nullcontext():
                found = method(student, teacher, labels, blur)
            losses |= _expect_losses(self.own[name], found) if name in self.own else found
        return losses


def _expect_losses(options: OwnLoss, found: Any) -> dict[str, Tensor]:
    """Return what a loss of the user's own returned; anything but 0-dim tensors by name raises `UserError`."""
    for name, loss in (found if isinstance(found, dict) else {None: found}).items():
        if name is None or not isinstance(loss, Tensor) or loss.dim():
            shown = f"{type(loss).__name__} {tuple(loss.shape) if isinstance(loss, Tensor) else ''}".strip()
            told = f"{source(type(options))}: forward of '{options.method}' returns {shown}"
            raise UserError(f"{told}, expected a dict of 0-dim tensors, such as {{'{options.method}': loss}}")
    return dict(found)


def _built(options: TaskLoss | Term, student: Shapes, teacher: Shapes | None) -> Method:
    if not isinstance(options, OwnLoss):
        return METHODS[options.method](options, student, teacher)
    if not isinstance(built := options.built(student, teacher), Method):
        raise UserError(
            f"'build' of '{options.method}' returns {type(built).__name__}, expected a distill.method.Method"
        )
    return built
