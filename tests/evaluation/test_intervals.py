"""Bootstrap intervals: known widths, coverage of the true value, equal results for equal seeds."""

import numpy as np
import pytest
import torch

from naruto_add.evaluation.frechet import frechet_distance
from naruto_add.evaluation.intervals import (
    fraction_interval,
    frechet_interval,
    kernel_interval,
    ratio_interval,
    weighted_frechet,
)
from naruto_add.losses.kernel import kernel_distance


def _gaussian(num: int, size: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, size))


def _kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    return kernel_distance(torch.from_numpy(features), torch.from_numpy(reference)).value


def test_the_interval_of_a_mean_is_as_wide_as_the_standard_error_says() -> None:
    values = _gaussian(400, 1, seed=0)[:, 0]

    low, high = ratio_interval(values, np.ones(400), seed=0)

    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (low, high) == ratio_interval(values, np.ones(400), seed=0)


@pytest.mark.parametrize(
    ("fraction", "num", "expected"), [(0.0, 10, (0.0, 0.2775)), (0.5, 10, (0.2366, 0.7634)), (1.0, 10, (0.7225, 1.0))]
)
def test_the_interval_of_a_fraction_is_wilsons(fraction: float, num: int, expected: tuple[float, float]) -> None:
    assert fraction_interval(fraction, num) == pytest.approx(expected, abs=1e-4)


def test_equal_parts_of_a_picture_do_not_narrow_the_interval() -> None:
    values = _gaussian(400, 1, seed=0)[:, 0]

    assert ratio_interval(4 * values, np.full(400, 4.0), seed=0) == pytest.approx(
        ratio_interval(values, np.ones(400), seed=0)
    )


@pytest.mark.parametrize(("num", "size"), [(60, 8), (20, 64)])
def test_equal_weights_give_the_frechet_distance(num: int, size: int) -> None:
    features, reference = _gaussian(num, size, seed=0) + 0.5, 1.5 * _gaussian(num + 5, size, seed=1)
    weights, others = np.full(num, 1 / num), np.full(num + 5, 1 / (num + 5))

    found = weighted_frechet(features, reference, weights, others)

    assert found == pytest.approx(frechet_distance(features, reference), rel=1e-9)


def test_frechet_interval_contains_the_distance_and_is_reproducible() -> None:
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


def test_kernel_interval_contains_the_distance_and_is_reproducible() -> None:
    features, reference = _gaussian(60, 16, seed=0) + 0.5, _gaussian(80, 16, seed=1)

    low, high = kernel_interval(features, reference, seed=0)

    assert low < _kernel_distance(features, reference) < high
    assert (low, high) == kernel_interval(features, reference, seed=0)


def test_kernel_interval_covers_the_true_distance() -> None:
    """At most 8 of 60 intervals miss the true distance, which is estimated from a large sample."""
    shift = 0.7
    truth = _kernel_distance(_gaussian(2000, 8, seed=0) + shift, _gaussian(2000, 8, seed=1))
    intervals = [
        kernel_interval(_gaussian(50, 8, seed=10 + i) + shift, _gaussian(70, 8, seed=1000 + i), seed=i)
        for i in range(60)
    ]

    assert sum(not low <= truth <= high for low, high in intervals) <= 8
