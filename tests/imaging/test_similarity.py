"""Similarity of thumbnails."""

import numpy as np
import pytest
from PIL import Image

from naruto_add.imaging.similarity import nearest, pairwise_distances, thumbnails


def test_distances_are_euclidean_and_exactly_zero_for_equal_vectors() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((5, 4)), generator.standard_normal((7, 4))

    assert pairwise_distances(a, b) == pytest.approx(np.linalg.norm(a[:, None] - b[None], axis=2))
    assert np.diag(pairwise_distances(a, a)).tolist() == [0.0] * 5


def test_a_copy_is_nearest_at_any_size() -> None:
    generator = np.random.default_rng(0)
    train = [Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(6)]
    copies = [train[4].resize((64, 64), Image.Resampling.BICUBIC), train[1]]

    indices = nearest(thumbnails(map(np.asarray, copies)), thumbnails(map(np.asarray, train)), num=2)

    assert indices[:, 0].tolist() == [4, 1]
