"""Paired comparisons: the null experiment, power, plain loops, SciPy's own tests, and inputs without a spread."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bkdsnn.core.paired import Spread, compare, holm, mcnemar, seeds_needed


def differences(draw, seeds=5, images=1000, run=0.0, image=0.0, gain=0.0):
    """D (S, n) in {-1, 0, 1} of two methods: first minus second, with some images harder to agree on than others.

    `run` and `image` are the standard deviations of what a training, or an image in all trainings, adds to the gain.
    """
    share = np.linspace(0.02, 0.4, images, dtype=np.float32)  # of trainings in which the two disagree
    shift = gain + run * draw.standard_normal((seeds, 1), dtype=np.float32)
    shift = shift + image * draw.standard_normal(images, dtype=np.float32)
    u = draw.random((seeds, images), dtype=np.float32)
    return np.subtract(u < (share + shift) / 2, u > 1 - (share - shift) / 2, dtype=np.float64)


def experiment(images=1000, repeated=1000, **options):
    """Many repetitions, from one stream."""
    draw = np.random.default_rng(17)
    return (differences(draw, images=images, **options) for _ in range(repeated))


def rate(p):
    return float(np.mean(np.array(p) < 0.05))


def upper(p):
    """Upper end of the one-sided 95 % interval of the rate of p < 0.05, from its binomial error."""
    return stats.binomtest(int((np.array(p) < 0.05).sum()), len(p), alternative="less").proportion_ci().high


def over_seeds(means):
    return stats.ttest_1samp(list(means), 0, axis=1).pvalue


@pytest.mark.parametrize(
    "options",
    [
        {"images": 1000, "run": 0.01},
        {"images": 1000, "run": 0.03},
        {"images": 1000, "run": 0.01, "image": 0.2},
        {"images": 1000, "run": 0.1, "image": 0.1, "seeds": 3, "repeated": 2500},
        {"images": 10_000, "run": 0.002, "image": 0.1},
        {"images": 10_000, "run": 0.004, "image": 0.1},
    ],
    ids=str,
)
def test_equal_methods_differ_in_at_most_seven_per_cent_of_experiments(options):
    assert upper([compare(one).p for one in experiment(**options)]) <= 0.07


def test_the_null_experiment_finds_tests_that_hold_only_for_these_images_or_these_networks():
    pooled = (mcnemar(int((one > 0).sum()), int((one < 0).sum())) for one in experiment(run=0.03, image=0.2))
    assert rate(list(pooled)) > 0.3
    assert rate(over_seeds(one.mean(1) for one in experiment(run=0.01, image=0.2))) > 0.07


def test_the_interval_holds_the_true_difference_in_ninety_five_per_cent_of_experiments():
    found = [compare(one) for one in experiment(run=0.03, image=0.1, gain=0.01)]
    assert np.mean([one.low <= 0.01 <= one.high for one in found]) == pytest.approx(0.95, abs=0.02)


def test_a_gain_of_one_point_is_found_about_as_often_as_by_the_test_over_seeds_alone():
    found = [(compare(one).p, one.mean(1)) for one in experiment(images=10_000, run=0.004, gain=0.01)]
    assert rate([p for p, _ in found]) == pytest.approx(0.79, abs=0.03)
    assert rate(over_seeds(means for _, means in found)) == pytest.approx(0.79, abs=0.04)


def by_loops(d):
    """Variance of the mean and degrees of freedom, term by term."""
    S, n = d.shape
    m = sum(d[s, i] for s in range(S) for i in range(n)) / (S * n)
    of_seed = [sum(d[s, i] for i in range(n)) / n for s in range(S)]
    of_image = [sum(d[s, i] for s in range(S)) / S for i in range(n)]
    seed = sum((x - m) ** 2 for x in of_seed) / (S - 1) / S
    image = sum((x - m) ** 2 for x in of_image) / (n - 1) / n
    rest = sum((d[s, i] - of_seed[s] - of_image[i] + m) ** 2 for s in range(S) for i in range(n))
    rest /= (S - 1) * (n - 1) * S * n
    df = (seed + image - rest) ** 2 / (seed**2 / (S - 1) + image**2 / (n - 1) + rest**2 / ((S - 1) * (n - 1)))
    return m, max(seed + image - rest, seed, image), max(1, df)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("run", "image"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.3), (0.2, 0.3)])
def test_interval_and_p_equal_those_of_plain_loops(seeds, run, image):
    d = differences(np.random.default_rng(seeds), seeds, 60, run, image, gain=0.05)
    mean, variance, df = by_loops(d)
    found, expected = compare(d), stats.t(df)
    assert found.df == pytest.approx(df)
    assert (found.low + found.high) / 2 == pytest.approx(mean)
    assert (found.high - found.low) / 2 == pytest.approx(expected.ppf(0.975) * math.sqrt(variance))
    assert found.p == pytest.approx(2 * expected.sf(abs(mean) / math.sqrt(variance)))


def test_where_images_do_not_matter_it_is_the_paired_t_test_over_seeds():
    draw = np.random.default_rng(3)
    ours, theirs = draw.normal(71, 2, 5), draw.normal(70, 2, 5)
    one_value = compare((ours - theirs)[:, None])
    every_image_alike = compare(np.repeat((ours - theirs)[:, None], 500, axis=1))
    expected = stats.ttest_rel(ours, theirs)
    low, high = expected.confidence_interval(0.95)
    for found in (one_value, every_image_alike):
        assert (found.p, found.df) == (pytest.approx(expected.pvalue), pytest.approx(4))
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_where_seeds_do_not_matter_it_is_the_paired_t_test_over_images():
    image = np.random.default_rng(4).integers(-1, 2, 200).astype(float)
    found, expected = compare(np.tile(image, (3, 1))), stats.ttest_1samp(image, 0)
    assert (found.p, found.df) == (pytest.approx(expected.pvalue), pytest.approx(199))


@pytest.mark.parametrize(
    "d",
    [
        np.zeros((5, 100)),
        np.ones((3, 100)),
        np.ones((1, 100)),
        np.array([[1.0, 0.0, -1.0]]),
        np.array([[3.0]]),
        np.array([[3.0], [3.0]]),
        np.array([[0.3 - 0.1], [0.5 - 0.3]]),  # equal but for rounding
        np.array([[1.0, -1.0], [-1.0, 1.0]]),  # all means are equal
    ],
    ids=["none", "all", "one seed", "one seed, spread", "one value", "equal values", "rounding", "checkerboard"],
)
def test_without_a_spread_between_seeds_or_images_nothing_is_told(d):
    assert compare(d) is None


def test_a_single_image_is_compared_over_seeds():
    d = np.array([[1.0], [0.0], [1.0], [1.0]])
    assert compare(d).p == pytest.approx(stats.ttest_1samp(d[:, 0], 0).pvalue)


def test_the_unit_changes_neither_p_nor_degrees_of_freedom():
    d = differences(np.random.default_rng(5), 3, 100, 0.1)
    small, large = compare(1e-6 * d), compare(100 * d)
    assert (small.p, small.df) == (pytest.approx(large.p), pytest.approx(large.df))
    assert small.low == pytest.approx(1e-8 * large.low)


# ---- How many seeds are needed ---------------------------------------------------------------------------------------


def power_over_seeds(seeds, difference, deviation):
    shift, bound = difference / deviation * math.sqrt(seeds), stats.t(seeds - 1).ppf(0.975)
    return stats.nct(seeds - 1, shift).sf(bound) + stats.nct(seeds - 1, shift).cdf(-bound)


@pytest.mark.parametrize("difference", [0.7, -1.0, 3.0, 30.0])
def test_seeds_needed_without_images_are_the_first_with_the_power_of_the_t_test(difference):
    needed = seeds_needed(difference, Spread(seeds=3, images=1, seed=4.0, image=0.0, rest=0.0))
    assert power_over_seeds(needed, abs(difference), 2.0) >= 0.8
    assert needed == 2 or power_over_seeds(needed - 1, abs(difference), 2.0) < 0.8


@pytest.mark.parametrize(("run", "image"), [(0.004, 0.0), (0.008, 0.1)])
def test_so_many_seeds_find_the_difference_in_eighty_per_cent_of_experiments(run, image):
    many = Spread.of(differences(np.random.default_rng(6), 400, 4000, run, image))  # the true spread, nearly
    needed = seeds_needed(0.01, many)
    draw = np.random.default_rng(7)
    p = [compare(differences(draw, needed, 4000, run, image, gain=0.01)).p for _ in range(400)]
    assert 5 < needed < 30
    assert rate(p) == pytest.approx(0.8, abs=0.06)


def test_no_number_of_seeds_finds_nothing_or_replaces_test_images():
    spread = Spread.of(differences(np.random.default_rng(8), 5, 100, 0.01, 0.3))
    assert seeds_needed(0.0, spread) == math.inf
    assert seeds_needed(0.01, spread) == math.inf
    assert seeds_needed(0.5, spread) == 2


def test_seeds_that_happen_to_agree_do_not_make_the_error_vanish():
    d = np.array([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    spread = Spread.of(d)
    assert spread.seed == 0 and spread.image < spread.rest / 3
    assert 3 < seeds_needed(0.5, spread) == seeds_needed(0.5, replace(spread, seed=spread.rest / 4)) < math.inf


# ---- Many comparisons ------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]  # never above 1
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    assert holm([0.01, 0.02], missing=2) == pytest.approx([0.04, 0.06])  # as with two more of 1


def test_holm_keeps_the_order_of_the_p_values():
    p = np.random.default_rng(9).random(20)
    assert np.all(np.diff(np.array(holm(p))[np.argsort(p)]) >= 0)
    assert all(adjusted >= raw for adjusted, raw in zip(holm(p), p))
