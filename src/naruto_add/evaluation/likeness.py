"""How like two pictures are, by the values of small copies: cheap enough to compare with a whole training set."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 16
"""Side of the small copies."""

Vectors = NDArray[np.float64]


def thumbnails(images: Iterable[NDArray[np.uint8]]) -> Vectors:
    """A row per picture (height, width, 3), of whatever size: its small copy's values, in [0, 255]."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
    return np.stack(small).reshape(len(small), -1).astype(np.float64)


def pairwise_distances(vectors: Vectors, others: Vectors) -> Vectors:
    """Euclidean, (vectors, others); equal vectors are exactly 0 apart."""
    squares = (vectors**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * vectors @ others.T
    squares[squares < 1e-9 * squares.max(initial=0.0)] = 0.0  # what rounding leaves of equal vectors
    distances: Vectors = np.sqrt(squares)
    return distances


def nearest(vectors: Vectors, others: Vectors, *, num: int) -> NDArray[np.int64]:
    """For each vector, the places of the `num` others that are most like it, the nearest first."""
    places: NDArray[np.int64] = np.argsort(pairwise_distances(vectors, others), axis=1, kind="stable")[:, :num]
    return places
