"""The Frechet distance: closed forms, and clean-fid's functions on the same features."""

import numpy as np
import pytest
from cleanfid import fid
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import frechet_distance

Features = NDArray[np.float64]


def _gaussian(num: int, size: int, *, seed: int) -> Features:
    return np.random.default_rng(seed).standard_normal((num, size))


def _exact_gaussian(mean: Features, scale: Features, *, seed: int) -> Features:
    """A sample whose own mean and covariance are exactly `mean` and diag(scale ** 2)."""
    sample = _gaussian(64, len(mean), seed=seed)
    sample -= sample.mean(axis=0)
    sample @= np.linalg.inv(np.linalg.cholesky(np.cov(sample, rowvar=False))).T
    return mean + scale * sample


@pytest.mark.parametrize("num", [10, 200])
def test_frechet_distance_of_a_set_to_itself_is_zero(num: int) -> None:
    features = _gaussian(num, 32, seed=0)

    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_a_shifted_set_is_the_squared_shift() -> None:
    features = _gaussian(40, 64, seed=0)
    shift = np.linspace(-1, 2, 64)

    assert frechet_distance(features + shift, features) == pytest.approx(shift @ shift, rel=1e-9)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    mean, scale = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, 3.0])
    features = _exact_gaussian(mean, scale, seed=0)
    reference = _exact_gaussian(np.zeros(3), np.ones(3), seed=1)

    expected = mean @ mean + ((scale - 1) ** 2).sum()

    assert frechet_distance(features, reference) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_equals_clean_fids() -> None:
    features, reference = 1.3 * _gaussian(400, 16, seed=0) + 0.2, _gaussian(300, 16, seed=1)

    assert frechet_distance(features, reference) == pytest.approx(fid.fid_from_feats(features, reference), abs=1e-6)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_of_few_pictures_equals_clean_fids_to_its_precision() -> None:
    features, reference = 1.3 * _gaussian(12, 48, seed=0), _gaussian(20, 48, seed=1)

    assert frechet_distance(features, reference) == pytest.approx(fid.fid_from_feats(features, reference), abs=1e-4)
