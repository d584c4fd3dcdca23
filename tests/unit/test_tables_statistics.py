"""Statistics against values worked out by hand, and against SciPy."""

import math

import pytest

from bkdsnn.core.paired import mcnemar
from bkdsnn.core.statistics import mean, sample_std


def test_mean_and_sample_standard_deviation():
    assert mean([80.0, 82.0, 84.0]) == 82.0
    assert sample_std([80.0, 82.0, 84.0]) == 2.0  # sqrt((4 + 0 + 4) / 2); dividing by n would give 1.63


def test_one_value_has_a_mean_and_no_standard_deviation():
    assert mean([80.0]) == 80.0
    assert sample_std([80.0]) is None


def test_of_nothing_there_is_nothing():
    assert mean([]) is None
    assert sample_std([]) is None


def test_mcnemar_by_hand():
    # 9 discordant samples, at most 1 on the smaller side: 2 (1 + 9) / 2^9
    assert mcnemar(1, 8) == mcnemar(8, 1) == 20 / 512


@pytest.mark.parametrize("split", [(0, 0), (1, 0), (5, 5), (6, 5)])
def test_mcnemar_of_an_even_split_is_one(split):
    assert mcnemar(*split) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("split", [(17, 8), (0, 6), (130, 90), (20_000, 20_500)])
def test_mcnemar_equals_the_binomial_test(split):
    from scipy.stats import binomtest

    expected = binomtest(min(split), sum(split)).pvalue
    assert mcnemar(*split) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_an_overwhelming_difference_neither_overflows_nor_vanishes():
    assert math.isclose(mcnemar(0, 1000), 2.0**-999)
