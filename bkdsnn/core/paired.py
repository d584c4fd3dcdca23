"""Paired comparisons of two methods over seeds and test images, and the tests around them.

A claim about methods is one about other trainings and other images than those at hand, so both are counted as drawn at
random: crossed random effects, with the variance of Cameron, Gelbach and Miller (2011) for two-way clusters and
Satterthwaite's degrees of freedom. docs/analysis.md has the formulas.

The distributions are those of `scipy.special`; importing `scipy.stats` would take four times as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.05  # of tests; intervals hold with the probability that is left, 95 %
POWER = 0.8
MOST_SEEDS = 1000  # beyond these no power is computed
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Mean squares of paired differences between `seeds` x `images`, from which the error of their mean follows.

    `seed` is the variance of the means over images, `image` that of the means over seeds, `rest` that of what neither
    explains.
    """

    seeds: int
    images: int
    seed: float
    image: float
    rest: float

    @classmethod
    def of(cls, differences: Floats) -> Spread:
        """Return the mean squares of differences (S, n) with at least two seeds; n is 1 if there are no images."""
        seeds, images = differences.shape
        by_seed, by_image = differences.mean(1) - differences.mean(), differences.mean(0) - differences.mean()
        rest = differences - differences.mean() - by_seed[:, None] - by_image
        others = max(images - 1, 1)  # the squares of a single image are 0
        return cls(
            seeds,
            images,
            seed=float(by_seed @ by_seed) / (seeds - 1),
            image=float(by_image @ by_image) / others,
            rest=float(np.square(rest).sum()) / ((seeds - 1) * others),
        )


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of a mean difference, the two-sided p-value of no difference, and the degrees of freedom."""

    low: float
    high: float
    p: float
    df: float
    spread: Spread


def compare(differences: Floats) -> Interval | None:
    """Return what differences of paired results (S, n) tell about their mean, in their unit.

    S are the seeds and n the test images; with n = 1 it is the paired t-test over seeds. None if nothing can be told:
    there is one seed, or no mean over images or seeds differs from another, so that there is no spread to measure.
    """
    if len(differences) < 2:
        return None
    mean, spread = float(differences.mean()), Spread.of(differences)
    if max(spread.seed, spread.image) <= (1e-9 * np.abs(differences).max()) ** 2:  # nothing, or rounding
        return None
    error, df = map(float, _error(spread.seeds, spread.images, spread.seed, spread.image, spread.rest))
    half = float(special.stdtrit(df, 1 - LEVEL / 2)) * error
    return Interval(mean - half, mean + half, p=2 * float(special.stdtr(df, -abs(mean) / error)), df=df, spread=spread)


def seeds_needed(difference: float, spread: Spread) -> float:
    """Return the least number of paired seeds that find a true difference at `LEVEL` with the probability `POWER`.

    The spread is one that was measured; more seeds leave what images have in common in all trainings. Infinite if not
    even `MOST_SEEDS` do: the difference is 0, or the test images are too few.
    """
    seeds = np.arange(2, MOST_SEEDS + 1)
    image = max(0, spread.image - spread.rest / spread.seeds) + spread.rest / seeds
    error, df = _error(seeds, spread.images, max(spread.seed, spread.rest / spread.images), image, spread.rest)
    missed = special.nctdtr(df, abs(difference) / error, special.stdtrit(df, 1 - LEVEL / 2))
    enough = seeds[1 - missed >= POWER]
    return int(enough[0]) if len(enough) else math.inf


def _error(seeds: ArrayLike, images: int, seed: ArrayLike, image: ArrayLike, rest: ArrayLike) -> tuple[Floats, Floats]:
    """The standard error of a mean difference from its mean squares, and its degrees of freedom."""
    free = np.asarray(seeds) - 1, max(images - 1, 1)
    by_seed, by_image, both = np.divide(seed, seeds), np.divide(image, images), np.divide(rest, seeds) / images
    whole = by_seed + by_image - both
    df = whole**2 / (by_seed**2 / free[0] + by_image**2 / free[1] + both**2 / (free[0] * free[1]))
    return np.sqrt(np.maximum(whole, np.maximum(by_seed, by_image))), np.maximum(1, df)


def holm(p: Sequence[float], missing: int = 0) -> list[float]:
    """Return the p-values of a family, adjusted by Holm's method (1979), in their own order.

    `missing` counts comparisons of the family that have no p-value yet; they count as if theirs were 1.
    """
    order = np.argsort(p)
    stepped = np.asarray(p, dtype=float)[order] * np.arange(len(p) + missing, missing, -1)
    adjusted = np.minimum(1, np.maximum.accumulate(stepped))
    return [float(adjusted[rank]) for rank in np.argsort(order)]


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of the exact McNemar test of one pair of trained networks.

    The arguments count the samples that only the first, and only the second, gets right: under the null hypothesis the
    split of their sum n is binomial(n, 1/2).
    """
    return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), only_first + only_second, 0.5)))
