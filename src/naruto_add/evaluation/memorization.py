"""Memorization: whether drawn pictures are closer to training pictures than real pictures of the test split are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import Features
from naruto_add.imaging.similarity import pairwise_distances

NEAR_PERCENT = 5
"""A drawn picture counts as near a training picture if its distance is below this percentile of the test pictures'."""


@dataclass(frozen=True)
class Memorization:
    """For drawn pictures as new as test pictures, `ratio` is about 1 and `near_fraction` about 0.05."""

    ratio: float
    near_fraction: float


def memorization(features: Features, test: Features, train: Features) -> Memorization:
    """Nearest distances of drawn pictures to training pictures, relative to those of test pictures.

    A copy has distance 0. The ratio compares medians and shows copying in general; the fraction shows single copies.
    """
    drawn_distances, test_distances = nearest_distances(features, train), nearest_distances(test, train)
    near = np.percentile(test_distances, NEAR_PERCENT)
    return Memorization(
        ratio=float(np.median(drawn_distances) / max(np.median(test_distances), np.finfo(float).tiny)),
        near_fraction=float((drawn_distances < near).mean()),
    )


def nearest_distances(features: Features, train: Features) -> NDArray[np.float64]:
    """Each picture's distance to the nearest training picture."""
    nearest: NDArray[np.float64] = pairwise_distances(features, train).min(axis=1)
    return nearest
