"""What feature methods share: which taps are compared, their time average, the adapter f_adp, the squared error."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bkdsnn.errors import UserError

Shape = tuple[int, int, int]
Shapes = dict[str, Shape]  # tap -> (C, h, w) in order of depth: the last is the feature before the last layer


class Pair(NamedTuple):
    """A tap of the student beside the tap of the teacher that it imitates, with their widths (C)."""

    tap: str
    teacher_tap: str
    width: int
    teacher_width: int


def pair_last(method: str, student: Shapes, teacher: Shapes) -> list[Pair]:
    """Pair the features before the last layer; raises `UserError` when their heights or widths differ."""
    return [_pair(method, list(student.items())[-1], list(teacher.items())[-1])]


def pair_stages(method: str, student: Shapes, teacher: Shapes) -> list[Pair]:
    """Pair all stages in order; raises `UserError` when their number, or heights or widths of a pair, differ."""
    if len(student) != len(teacher):
        raise UserError(
            f"'{method}' compares stage by stage: the student has {len(student)} {student}, the teacher "
            f"{len(teacher)} {teacher}, as (C, h, w); choose a teacher with as many stages"
        )
    return [_pair(method, *both) for both in zip(student.items(), teacher.items())]


def _pair(method: str, student: tuple[str, Shape], teacher: tuple[str, Shape]) -> Pair:
    (tap, shape), (teacher_tap, teacher_shape) = student, teacher
    if shape[1:] != teacher_shape[1:]:
        raise UserError(
            f"'{method}' compares maps of one size: the student's '{tap}' is {shape}, the teacher's '{teacher_tap}' "
            f"{teacher_shape}, as (C, h, w); choose a teacher with the same strides"
        )
    return Pair(tap, teacher_tap, shape[0], teacher_shape[0])


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute a loss in: float32 for half precision, float64 stays."""
    return torch.promote_types(dtype, torch.float32)


def time_mean(values: Tensor) -> Tensor:
    """Average (T, B, ...) over time-steps to (B, ...), in float32 or better (Eq. 3)."""
    return values.mean(0, dtype=at_least_float32(values.dtype))


def adapter(pair: Pair) -> nn.Module:
    """Build f_adp (Eq. 4): a 1x1 convolution to the teacher's width, nothing when the widths agree."""
    return nn.Identity() if pair.width == pair.teacher_width else nn.Conv2d(pair.width, pair.teacher_width, 1)


def squared_error(feature: Tensor, target: Tensor, reduction: Literal["batch-mean", "sum"] = "batch-mean") -> Tensor:
    """Sum (feature - target)^2 over C, h, w, and average it over B or, for `sum`, add it up (Eq. 5).

    `target` comes from `time_mean`, so the difference is float32 even when autocast made `feature` half precision.
    """
    error = (feature - target).square().sum()
    return error if reduction == "sum" else error / len(feature)
