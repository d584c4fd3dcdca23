"""Mean and deviation, without NumPy or SciPy; paired.py has the comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None if there are no values."""
    return fmean(values) if values else None


def sample_std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (ddof = 1), or None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None
