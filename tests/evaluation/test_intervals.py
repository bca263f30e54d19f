"""Bootstrap intervals hold what they say."""

import numpy as np
import pytest

from naruto_add.evaluation import intervals
from naruto_add.evaluation.frechet import frechet_distance
from naruto_add.evaluation.intervals import frechet_interval, mean_interval, ratio_interval


def _gaussian(num: int, size: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, size))


def test_mean_interval_is_that_of_the_standard_error() -> None:
    values = _gaussian(400, 1, seed=0)[:, 0]

    low, high = mean_interval(values, seed=0)

    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (low, high) == mean_interval(values, seed=0)


def test_parts_of_one_picture_belong_together() -> None:
    """Pictures with four equal parts each tell no more than those with one."""
    values = _gaussian(400, 1, seed=0)[:, 0]

    assert ratio_interval(4 * values, np.full(400, 4.0), seed=0) == pytest.approx(mean_interval(values, seed=0))


@pytest.mark.parametrize(("num", "size"), [(60, 8), (20, 64)])
def test_equal_weights_give_the_distance_itself(num: int, size: int) -> None:
    features, reference = _gaussian(num, size, seed=0) + 0.5, 1.5 * _gaussian(num + 5, size, seed=1)
    weights, others = np.full(num, 1 / num), np.full(num + 5, 1 / (num + 5))

    found = intervals._weighted_distance(*intervals._in_common_basis(features, reference), weights, others)

    assert found == pytest.approx(frechet_distance(features, reference), rel=1e-9)


def test_frechet_interval_holds_the_distance_and_repeats() -> None:
    features, reference = _gaussian(50, 16, seed=0) + 0.7, _gaussian(70, 16, seed=1)
    distance = frechet_distance(features, reference)

    low, high = frechet_interval(features, reference, distance=distance, seed=0)

    assert low < distance < high
    assert (low, high) == frechet_interval(features, reference, distance=distance, seed=0)


def test_frechet_interval_is_as_wide_as_the_distances_of_new_samples() -> None:
    def distance(seed: int) -> float:
        return frechet_distance(_gaussian(80, 4, seed=2 * seed) + 1, _gaussian(80, 4, seed=2 * seed + 1))

    low, high = np.percentile([distance(seed) for seed in range(200)], [2.5, 97.5])
    features, reference = _gaussian(80, 4, seed=0) + 1, _gaussian(80, 4, seed=1)
    found = frechet_interval(features, reference, distance=distance(0), seed=0)

    assert found[1] - found[0] == pytest.approx(high - low, rel=0.35)
