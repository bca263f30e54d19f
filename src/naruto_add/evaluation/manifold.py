"""Fidelity and diversity separately: how far two sets of feature vectors overlap.

A set covers the union of balls around its vectors; each ball reaches to the k-th nearest neighbour within the set.
Precision and recall are Kynkaanniemi et al. 2019, eq. 2, with k = 3; density and coverage are Naeem et al. 2020, eq. 3,
with k = 5. All four depend on the number of pictures, so compare only values of equal numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import Features
from naruto_add.imaging.similarity import pairwise_distances

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class ManifoldScores:
    """Fractions, except `density`, which averages 1 for two samples of one distribution and can exceed it."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(features: Features, reference: Features) -> ManifoldScores:
    """Overlap of drawn pictures with real ones (`reference`). A set of k pictures or fewer uses all its neighbours."""
    distances = pairwise_distances(features, reference)
    radii = _radii(features, PRECISION_NEIGHBOURS)
    reference_radii = _radii(reference, PRECISION_NEIGHBOURS)
    wide_radii = _radii(reference, DENSITY_NEIGHBOURS)
    num_neighbours = _num_neighbours(reference, DENSITY_NEIGHBOURS)
    return ManifoldScores(
        precision=float((distances <= reference_radii).any(axis=1).mean()),
        recall=float((distances <= radii[:, None]).any(axis=0).mean()),
        density=float((distances <= wide_radii).sum(axis=1).mean() / num_neighbours),
        coverage=float((distances.min(axis=0) <= wide_radii).mean()),
    )


def _radii(features: Features, k: int) -> Distances:
    """Each vector's distance to its k-th nearest neighbour. Its nearest vector, at index 0, is itself."""
    within = pairwise_distances(features, features)
    np.fill_diagonal(within, 0.0)
    index = _num_neighbours(features, k)
    radii: Distances = np.partition(within, index, axis=1)[:, index]
    return radii


def _num_neighbours(features: Features, k: int) -> int:
    return min(k, len(features) - 1)
