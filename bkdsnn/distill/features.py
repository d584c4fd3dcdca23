"""Shared by all feature losses: the choice of taps, time average, resampling, adapter f_adp, squared error."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bkdsnn.core.errors import UserError

Shape = tuple[int, int, int]
Shapes = dict[str, Shape]  # tap -> (C, h, w) in order of depth: the last is the feature before the last layer


class Pair(NamedTuple):
    """A tap of the student and the tap of the teacher that it is compared with, and their shapes (C, h, w)."""

    tap: str
    shape: Shape
    teacher_tap: str
    teacher_shape: Shape

    @property
    def width(self) -> int:
        """C of the student."""
        return self.shape[0]

    @property
    def teacher_width(self) -> int:
        """C of the teacher."""
        return self.teacher_shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the student."""
        return self.shape[1:]

    @property
    def exchanged(self) -> Pair:
        """The same pair with the roles of teacher and student exchanged."""
        return Pair(self.teacher_tap, self.teacher_shape, self.tap, self.shape)

    @property
    def teacher_grid(self) -> tuple[int, int]:
        """(h, w) of the teacher."""
        return self.teacher_shape[1:]


def pair_last(method: str, student: Shapes, teacher: Shapes, resampled: bool = True) -> Pair:
    """Pair the features before the last layer: the outputs of the last stages or blocks (D-010, D-011, D-012).

    Raises `UserError` if the teacher's feature is to be `resampled` to the student's grid and aspect ratios differ.
    """
    pair = Pair(*list(student.items())[-1], *list(teacher.items())[-1])
    if resampled:
        _check_aspect(method, pair)
    return pair


def pair_stages(method: str, student: Shapes, teacher: Shapes) -> list[Pair]:
    """Pair tap i of the student's L taps with tap round(i M / L) of the teacher's M, halves rounded up (D-027).

    If L = M, taps are paired in order; the last taps are always paired. 4 taps are paired with taps 3, 6, 9, 12 of 12.
    Raises `UserError` when the student has more taps than the teacher, or the aspect ratios of a pair differ.
    """
    own, theirs = list(student.items()), list(teacher.items())
    if len(own) > len(theirs):
        raise UserError(
            f"'{method}' compares layer by layer: the student has {len(own)} {student}, the teacher only "
            f"{len(theirs)} {teacher}, as (C, h, w); choose a teacher with at least as many"
        )
    chosen = [(2 * i * len(theirs) + len(own)) // (2 * len(own)) for i in range(1, len(own) + 1)]
    pairs = [Pair(*one, *theirs[place - 1]) for one, place in zip(own, chosen)]
    for pair in pairs:
        _check_aspect(method, pair)
    return pairs


def _check_aspect(method: str, pair: Pair) -> None:
    (height, width), (teacher_height, teacher_width) = pair.grid, pair.teacher_grid
    if height * teacher_width != width * teacher_height:
        raise UserError(
            f"'{method}' compares maps of one aspect ratio: the student's '{pair.tap}' is {pair.shape}, the teacher's "
            f"'{pair.teacher_tap}' {pair.teacher_shape}, as (C, h, w); choose networks of the same strides"
        )


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a loss is computed: float32 for float16, bfloat16 and float32, else float64."""
    return torch.promote_types(dtype, torch.float32)


def time_mean(values: Tensor) -> Tensor:
    """Average (T, B, ...) over time-steps to (B, ...), in float32 or better (Eq. 3)."""
    return values.mean(0, dtype=at_least_float32(values.dtype))


def space_mean(values: Tensor) -> Tensor:
    """Average (B, C, h, w) over spatial positions to (B, C), in float32 or better."""
    return values.mean((-2, -1), dtype=at_least_float32(values.dtype))


def resample(target: Tensor, grid: torch.Size) -> Tensor:
    """Resample a teacher's map (B, C, h, w) bilinearly to another grid; return it unchanged if the grids agree (D-017).

    Both grids cover the whole image, so their edges are aligned (`align_corners` would align the outermost centres).
    When the grid shrinks, the filter is widened by the ratio (antialiasing), so that all of the teacher's spatial
    positions count nearly equally: along one axis from 14 to 8 with total weights of 0.92 to 1.10. Without it these
    would be 0.44 to 1.53, and beyond a ratio of 2 some positions would be ignored.
    """
    if target.shape[-2:] == grid:
        return target
    return F.interpolate(target, tuple(grid), mode="bilinear", align_corners=False, antialias=True)


def adapter(pair: Pair) -> nn.Module:
    """Build f_adp (Eq. 4, D-009): a 1x1 convolution to the teacher's width, or the identity if the widths agree."""
    return nn.Identity() if pair.width == pair.teacher_width else nn.Conv2d(pair.width, pair.teacher_width, 1)


def squared_error(feature: Tensor, target: Tensor, reduction: Literal["batch-mean", "sum"] = "batch-mean") -> Tensor:
    """Sum (feature - target)^2 over C, h, w, then average over B (D-001) or, with `sum`, sum over B too (Eq. 5).

    C is the teacher's (D-002). `target` comes from `time_mean`, so the difference is float32 even if autocast made
    `feature` half precision.
    """
    error = (feature - target).square().sum()
    return error if reduction == "sum" else error / len(feature)
