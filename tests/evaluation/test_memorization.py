"""Copies of training pictures are detected."""

import numpy as np
import pytest

from naruto_add.evaluation.memorization import memorization, nearest_distances


def _cloud(num: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, 6))


def test_nearest_distance_is_the_distance_to_the_nearest_training_picture() -> None:
    train = np.array([[0.0, 0.0], [10.0, 0.0]])

    assert nearest_distances(np.array([[3.0, 4.0], [10.0, 0.0]]), train).tolist() == [5.0, 0.0]


def test_new_pictures_are_as_far_from_training_pictures_as_test_pictures() -> None:
    found = memorization(_cloud(400, seed=0), _cloud(400, seed=1), _cloud(400, seed=2))

    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.near_fraction == pytest.approx(0.05, abs=0.04)


def test_copies_have_ratio_zero() -> None:
    train, test = _cloud(200, seed=0), _cloud(200, seed=1)

    copied = memorization(train[:50], test, train)

    assert (copied.ratio, copied.near_fraction) == (0, 1)


def test_the_fraction_shows_single_copies_that_the_ratio_does_not() -> None:
    train, test = _cloud(200, seed=0), _cloud(200, seed=1)
    mostly_new = np.concatenate([_cloud(80, seed=2), train[:20]])

    found = memorization(mostly_new, test, train)

    assert found.ratio > 0.8
    assert found.near_fraction >= 0.2
