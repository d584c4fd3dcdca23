"""The few statistics that the tables report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean, stdev


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None if there are no values."""
    return fmean(values) if values else None


def sample_std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (ddof = 1), or None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    The arguments count the samples that only the first, and only the second, of two paired classifiers gets right:
    under the null hypothesis the split of their sum n is binomial(n, 1/2). Integers keep it exact for any n.
    """
    n = only_first + only_second
    coefficients = itertools.accumulate(range(n), lambda c, k: c * (n - k) // (k + 1), initial=1)
    tail = sum(itertools.islice(coefficients, min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)
