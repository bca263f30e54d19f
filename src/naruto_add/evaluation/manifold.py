"""Fidelity and diversity apart: how much of one cloud of feature vectors lies in the region that another occupies.

A set's region is the union of balls around its pictures that reach to their k-th nearest neighbour in the set.
Precision and recall are Kynkaanniemi et al. 2019, eq. 2, with their k of 3; density and coverage Naeem et al. 2020,
eq. 3, with their k of 5. All depend on the numbers of pictures, so only sets of one size may be compared.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import Features
from naruto_add.evaluation.likeness import pairwise_distances

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class ManifoldScores:
    """All but `density` are fractions; density may exceed 1 and is 1 on average for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(features: Features, reference: Features) -> ManifoldScores:
    """How drawn pictures and real ones (`reference`) overlap; sets of k pictures or fewer use all their neighbours."""
    distances = pairwise_distances(features, reference)
    radii = _radii(features, PRECISION_NEIGHBOURS)
    reference_radii = _radii(reference, PRECISION_NEIGHBOURS)
    wide_radii = _radii(reference, DENSITY_NEIGHBOURS)
    num_neighbours = _neighbours(reference, DENSITY_NEIGHBOURS)
    return ManifoldScores(
        precision=float((distances <= reference_radii).any(axis=1).mean()),
        recall=float((distances <= radii[:, None]).any(axis=0).mean()),
        density=float((distances <= wide_radii).sum(axis=1).mean() / num_neighbours),
        coverage=float((distances.min(axis=0) <= wide_radii).mean()),
    )


def _radii(features: Features, num_neighbours: int) -> Distances:
    """Each picture's distance to its k-th nearest neighbour; the nearest of all is itself."""
    within = pairwise_distances(features, features)
    np.fill_diagonal(within, 0.0)
    k = _neighbours(features, num_neighbours)
    radii: Distances = np.partition(within, k, axis=1)[:, k]
    return radii


def _neighbours(features: Features, num_neighbours: int) -> int:
    return min(num_neighbours, len(features) - 1)
