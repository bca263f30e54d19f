"""Does a model repeat its training pictures? Their nearest distances, against those of real pictures it never saw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import Features
from naruto_add.evaluation.likeness import pairwise_distances

NEAR_PERCENT = 5
"""Held-out pictures that are nearest to a training picture, by whose distance a drawn one counts as near."""


@dataclass(frozen=True)
class Memorization:
    """`ratio` is about 1, and `near_fraction` about 0.05, where drawn pictures are as new as held-out ones."""

    ratio: float
    near_fraction: float


def memorization(features: Features, held_out: Features, train: Features) -> Memorization:
    """How near drawn pictures are to training pictures, by the measure of how near held-out real ones are.

    A copy is 0 away. The ratio is of medians, so it tells of a habit; the fraction tells of single copies.
    """
    drawn, unseen = nearest_distances(features, train), nearest_distances(held_out, train)
    near = np.percentile(unseen, NEAR_PERCENT)
    return Memorization(
        ratio=float(np.median(drawn) / max(np.median(unseen), np.finfo(float).tiny)),
        near_fraction=float((drawn < near).mean()),
    )


def nearest_distances(features: Features, train: Features) -> NDArray[np.float64]:
    """Each picture's distance to the training picture that is most like it."""
    nearest: NDArray[np.float64] = pairwise_distances(features, train).min(axis=1)
    return nearest
