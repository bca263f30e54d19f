"""95% intervals by the Bayesian bootstrap (Rubin 1981): the same pictures, weighted anew many times.

Weights, and not draws with replacement, because a picture drawn twice has no distance to itself.
"""

import numpy as np
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import INTERVAL_PERCENT, NUM_RESAMPLES, Features

NUM_FRECHET_RESAMPLES = 100
"""Each costs a singular value decomposition."""

Weights = NDArray[np.float64]


def mean_interval(values: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """Of the mean of one value per picture."""
    return ratio_interval(values, np.ones(len(values)), seed=seed)


def ratio_interval(sums: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """Of a mean over parts of pictures, given each picture's sum and number of parts: those of one belong together."""
    weights = _weights(np.random.default_rng(seed), NUM_RESAMPLES, len(sums))
    low, high = np.percentile((weights @ sums) / (weights @ counts), INTERVAL_PERCENT)
    return float(low), float(high)


def frechet_interval(features: Features, reference: Features, *, distance: float, seed: int) -> tuple[float, float]:
    """Of the Frechet `distance` of these sets at their numbers of pictures: its spread, not its bias.

    Reweighted sets are worth fewer pictures, which lifts all their distances; so what is used are the deviations of
    these from their mean, around `distance`.
    """
    generator = np.random.default_rng(seed)
    weights = _weights(generator, NUM_FRECHET_RESAMPLES, len(features))
    reference_weights = _weights(generator, NUM_FRECHET_RESAMPLES, len(reference))
    features, reference = _in_common_basis(features, reference)
    distances = np.array(
        [_weighted_distance(features, reference, w, v) for w, v in zip(weights, reference_weights, strict=True)]
    )
    low, high = np.percentile(distances - distances.mean(), INTERVAL_PERCENT)
    return max(0.0, distance + float(low)), distance + float(high)


def _weights(generator: np.random.Generator, num: int, num_pictures: int) -> Weights:
    return generator.dirichlet(np.ones(num_pictures), size=num)


def _in_common_basis(features: Features, reference: Features) -> tuple[Features, Features]:
    """The same clouds in as many coordinates as they span: far fewer than a network's features."""
    both = np.concatenate([features, reference])
    both = both - both.mean(axis=0)
    if len(both) >= both.shape[1]:
        return both[: len(features)], both[len(features) :]
    coordinates = np.asarray(np.linalg.qr(both.T, mode="r")).T
    return coordinates[: len(features)], coordinates[len(features) :]


def _weighted_distance(features: Features, reference: Features, weights: Weights, others: Weights) -> float:
    shift = weights @ features - others @ reference
    a, b = _weighted_root(features, weights), _weighted_root(reference, others)
    tr_covmean = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * tr_covmean)


def _weighted_root(features: Features, weights: Weights) -> Features:
    """R with R'R the weighted covariance, unbiased."""
    centred = features - weights @ features
    root: Features = centred * np.sqrt(weights / (1 - (weights**2).sum()))[:, None]
    if len(root) <= root.shape[1]:
        return root
    return np.asarray(np.linalg.qr(root, mode="r"))
