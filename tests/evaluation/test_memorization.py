"""Copies of training pictures are exposed."""

import numpy as np
import pytest

from naruto_add.evaluation.memorization import memorization, nearest_distances


def _cloud(num: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, 6))


def test_nearest_distance_is_to_the_nearest() -> None:
    train = np.array([[0.0, 0.0], [10.0, 0.0]])

    assert nearest_distances(np.array([[3.0, 4.0], [10.0, 0.0]]), train).tolist() == [5.0, 0.0]


def test_new_pictures_are_as_far_as_held_out_ones() -> None:
    found = memorization(_cloud(400, seed=0), _cloud(400, seed=1), _cloud(400, seed=2))

    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.near_fraction == pytest.approx(0.05, abs=0.04)


def test_copies_are_told() -> None:
    train, held_out = _cloud(200, seed=0), _cloud(200, seed=1)

    copied = memorization(train[:50], held_out, train)

    assert (copied.ratio, copied.near_fraction) == (0, 1)


def test_single_copies_are_told_by_the_fraction() -> None:
    train, held_out = _cloud(200, seed=0), _cloud(200, seed=1)
    mostly_new = np.concatenate([_cloud(80, seed=2), train[:20]])

    found = memorization(mostly_new, held_out, train)

    assert found.ratio > 0.8
    assert found.near_fraction >= 0.2
