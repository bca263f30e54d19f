"""Precision, recall, density and coverage on sets with known answers."""

import numpy as np
import pytest

from naruto_add.evaluation.manifold import manifold_scores


def _cloud(num: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, 4)) + shift


def test_a_set_overlaps_itself_completely() -> None:
    scores = manifold_scores(_cloud(30, seed=0), _cloud(30, seed=0))

    assert (scores.precision, scores.recall, scores.coverage) == (1, 1, 1)


def test_distant_sets_do_not_overlap() -> None:
    scores = manifold_scores(_cloud(30, seed=0, shift=100), _cloud(30, seed=1))

    assert (scores.precision, scores.recall, scores.density, scores.coverage) == (0, 0, 0, 0)


def test_points_on_a_line_give_the_closed_form() -> None:
    """Real points at 0..9: the radii are 2 (inner) to 3 for k = 3, and 3 to 5 for k = 5."""
    real = np.arange(10.0)[:, None]
    drawn = np.array([[4.5], [12.5], [13.5], [14.5], [15.5]])

    scores = manifold_scores(drawn, real)

    # 4.5 is within 2 of 3..6; 12.5 is 3.5 from 9, whose third neighbour is 3 away.
    assert scores.precision == 1 / 5
    # 4.5's third neighbour, 14.5, is 10 away: its ball contains every real point.
    assert scores.recall == 1
    # The radii for k = 5 are 5 4 3 3 3 3 3 3 4 5. All 10 balls contain 4.5; the ball of 9 contains 12.5 (3.5 away) and
    # 13.5 (4.5 away), but not 14.5 (5.5 away).
    assert scores.density == pytest.approx((10 + 1 + 1) / 5 / 5)
    assert scores.coverage == 1


def test_density_of_equal_distributions_is_one_on_average() -> None:
    densities = [manifold_scores(_cloud(200, seed=2 * i), _cloud(200, seed=2 * i + 1)).density for i in range(10)]

    assert np.mean(densities) == pytest.approx(1, abs=0.1)


def test_one_repeated_picture_has_full_precision_and_almost_no_recall() -> None:
    real = _cloud(50, seed=0)

    scores = manifold_scores(np.repeat(real[:1], 50, axis=0), real)

    assert scores.precision == 1
    assert scores.recall <= 0.02
    assert scores.coverage < 0.5


def test_small_sets_use_all_their_neighbours() -> None:
    scores = manifold_scores(_cloud(2, seed=0), _cloud(3, seed=0))
    assert scores.precision == scores.coverage == 1  # every neighbourhood contains the whole set
