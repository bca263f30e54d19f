"""Similarity of images by the pixels of their thumbnails: fast enough to compare with a whole training split."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 16
"""Side of a thumbnail."""

Vectors = NDArray[np.float64]
"""(number, values)."""


def thumbnails(images: Iterable[NDArray[np.uint8]]) -> Vectors:
    """One row per image (height, width, 3) of any size: the values of its thumbnail, in [0, 255]."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
    return np.stack(small).reshape(len(small), -1).astype(np.float64)


def pairwise_distances(vectors: Vectors, others: Vectors) -> Vectors:
    """Euclidean distances, (vectors, others); exactly 0 for equal vectors."""
    squares = (vectors**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * vectors @ others.T
    squares[squares < 1e-9 * squares.max(initial=0.0)] = 0.0  # rounding errors, which differ from 0 for equal vectors
    distances: Vectors = np.sqrt(squares)
    return distances


def nearest(vectors: Vectors, others: Vectors, *, num: int) -> NDArray[np.int64]:
    """For each vector, the indices of its `num` nearest others, nearest first."""
    indices: NDArray[np.int64] = np.argsort(pairwise_distances(vectors, others), axis=1, kind="stable")[:, :num]
    return indices
