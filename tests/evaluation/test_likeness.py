"""Likeness of thumbnails."""

import numpy as np
import pytest
from PIL import Image

from naruto_add.evaluation.likeness import nearest, pairwise_distances, thumbnails


def test_distances_are_euclidean() -> None:
    draws = np.random.default_rng(0)
    a, b = draws.standard_normal((5, 4)), draws.standard_normal((7, 4))

    assert pairwise_distances(a, b) == pytest.approx(np.linalg.norm(a[:, None] - b[None], axis=2))
    assert np.diag(pairwise_distances(a, a)).tolist() == [0.0] * 5


def test_copies_are_nearest_whatever_their_size() -> None:
    draws = np.random.default_rng(0)
    known = [Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(6)]
    drawn = [known[4].resize((64, 64), Image.Resampling.BICUBIC), known[1]]

    places = nearest(thumbnails(map(np.asarray, drawn)), thumbnails(map(np.asarray, known)), num=2)

    assert places[:, 0].tolist() == [4, 1]
