"""95% intervals by the Bayesian bootstrap (Rubin 1981): the same pictures with many random weights.

Resampling with replacement would repeat pictures, and a repeated picture has distance 0 to itself. The interval of a
fraction is by Wilson's formula.
"""

import math

import numpy as np
from numpy.typing import NDArray

from naruto_add.evaluation.frechet import Features
from naruto_add.losses.kernel import polynomial_kernel

NUM_RESAMPLES = 1000
NUM_FRECHET_RESAMPLES = 100
"""Fewer, because each resample takes a singular value decomposition."""
INTERVAL_PERCENT = (2.5, 97.5)
NORMAL_QUANTILE = 1.959964
"""97.5% of a normal distribution is below it."""

Values = NDArray[np.float64]
"""One number per picture or resample."""
Weights = NDArray[np.float64]
"""One row per resample, one column per picture; each row sums to 1."""


def fraction_interval(fraction: float, num: int) -> tuple[float, float]:
    """Interval of a fraction of `num` pictures (Wilson 1927); unlike a bootstrap's, it has a width at 0 and at 1."""
    z = NORMAL_QUANTILE
    center = (fraction + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z * math.sqrt(fraction * (1 - fraction) / num + z**2 / (4 * num**2)) / (1 + z**2 / num)
    return max(0.0, center - half), min(1.0, center + half)


def ratio_interval(sums: Values, counts: Values, *, seed: int) -> tuple[float, float]:
    """Interval of a mean over the parts of all pictures, given each picture's sum and number of parts.

    The parts of a picture are resampled together.
    """
    weights = _weights(np.random.default_rng(seed), NUM_RESAMPLES, len(sums))
    low, high = np.percentile((weights @ sums) / (weights @ counts), INTERVAL_PERCENT)
    return float(low), float(high)


def kernel_interval(features: Features, reference: Features, *, seed: int) -> tuple[float, float]:
    """Interval of the kernel distance. No picture is compared with itself, so the estimate stays unbiased."""
    generator = np.random.default_rng(seed)
    weights = _weights(generator, NUM_RESAMPLES, len(features))
    reference_weights = _weights(generator, NUM_RESAMPLES, len(reference))
    distances = (
        _weighted_off_diagonal(polynomial_kernel(features, features), weights)
        + _weighted_off_diagonal(polynomial_kernel(reference, reference), reference_weights)
        - 2 * ((weights @ polynomial_kernel(features, reference)) * reference_weights).sum(axis=1)
    )
    low, high = np.percentile(distances, INTERVAL_PERCENT)
    return float(low), float(high)


def frechet_interval(features: Features, reference: Features, *, distance: float, seed: int) -> tuple[float, float]:
    """Interval of the Frechet `distance` of these sets. It covers the spread of the distance, not its bias.

    Weights reduce the effective number of pictures, which raises every resampled distance. The interval is therefore
    `distance` plus the deviations of the resampled distances from their own mean.
    """
    generator = np.random.default_rng(seed)
    weights = _weights(generator, NUM_FRECHET_RESAMPLES, len(features))
    reference_weights = _weights(generator, NUM_FRECHET_RESAMPLES, len(reference))
    features, reference = _in_common_basis(features, reference)
    distances = np.array(
        [weighted_frechet(features, reference, w, v) for w, v in zip(weights, reference_weights, strict=True)]
    )
    low, high = np.percentile(distances - distances.mean(), INTERVAL_PERCENT)
    return max(0.0, distance + float(low)), distance + float(high)


def weighted_frechet(features: Features, reference: Features, weights: Values, reference_weights: Values) -> float:
    """Frechet distance of weighted pictures; weights sum to 1, and equal ones give `frechet_distance`."""
    shift = weights @ features - reference_weights @ reference
    a, b = _weighted_root(features, weights), _weighted_root(reference, reference_weights)
    tr_covmean = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * tr_covmean)


def _weights(generator: np.random.Generator, num: int, num_pictures: int) -> Weights:
    return generator.dirichlet(np.ones(num_pictures), size=num)


def _weighted_off_diagonal(kernel: Features, weights: Weights) -> Values:
    """For each row of weights, the weighted mean of the kernel over pairs of different pictures."""
    pairs = ((weights @ kernel) * weights).sum(axis=1) - weights**2 @ np.diag(kernel)
    means: Values = pairs / (1 - (weights**2).sum(axis=1))
    return means


def _in_common_basis(features: Features, reference: Features) -> tuple[Features, Features]:
    """The same vectors, centred, in a basis of the space that they span, if it has fewer dimensions than the features.

    Distances are unchanged, and a decomposition takes a fraction of the time.
    """
    both = np.concatenate([features, reference])
    both = both - both.mean(axis=0)
    if len(both) >= both.shape[1]:
        return both[: len(features)], both[len(features) :]
    coordinates = np.asarray(np.linalg.qr(both.T, mode="r")).T
    return coordinates[: len(features)], coordinates[len(features) :]


def _weighted_root(features: Features, weights: Values) -> Features:
    """A matrix R with R'R the unbiased weighted covariance."""
    centred = features - weights @ features
    root: Features = centred * np.sqrt(weights / (1 - (weights**2).sum()))[:, None]
    if len(root) <= root.shape[1]:
        return root
    return np.asarray(np.linalg.qr(root, mode="r"))
