"""How far one cloud of feature vectors is from another: Frechet distance (FID's formula) and kernel distance (KID's).

Both equal clean-fid's functions on the same features (tests hold them to it). They are written out here because
clean-fid's matrix square root loses four digits and takes seconds where there are fewer pictures than features.
With so few pictures both covariances are rank-deficient: the Frechet distance is then biased upwards, by an amount
that depends on the number of pictures, so only sets of one size may be compared. The kernel distance has no such bias.
"""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
"""(N, features)."""

NUM_RESAMPLES = 1000
INTERVAL_PERCENT = (2.5, 97.5)


def frechet_distance(features: Features, reference: Features) -> float:
    """Squared Wasserstein-2 distance of the two Gaussians that have these means and covariances (Heusel et al. 2017).

    With covariances A'A and B'B, tr sqrt(A'A B'B) is the sum of the singular values of A B'.
    """
    shift = features.mean(axis=0) - reference.mean(axis=0)
    a, b = _covariance_root(features), _covariance_root(reference)
    tr_covmean = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * tr_covmean))


def kernel_distance(features: Features, reference: Features) -> float:
    """Unbiased squared maximum mean discrepancy with KID's cubic kernel (Binkowski et al. 2018); it may be below 0."""
    within = _mean_off_diagonal(_kernel(features, features))
    within_reference = _mean_off_diagonal(_kernel(reference, reference))
    return float(within + within_reference - 2 * _kernel(features, reference).mean())


def kernel_interval(features: Features, reference: Features, *, seed: int) -> tuple[float, float]:
    """95% interval of `kernel_distance` by the Bayesian bootstrap (Rubin 1981): both sets' pictures weighted anew.

    A picture is never compared with its own copy, which is why resampling by weights keeps the estimate unbiased.
    """
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(len(features)), size=NUM_RESAMPLES)
    reference_weights = generator.dirichlet(np.ones(len(reference)), size=NUM_RESAMPLES)
    distances = (
        _weighted_off_diagonal(_kernel(features, features), weights)
        + _weighted_off_diagonal(_kernel(reference, reference), reference_weights)
        - 2 * ((weights @ _kernel(features, reference)) * reference_weights).sum(axis=1)
    )
    low, high = np.percentile(distances, INTERVAL_PERCENT)
    return float(low), float(high)


def _covariance_root(features: Features) -> Features:
    """A matrix R of at most `features` rows with R'R the covariance."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def _kernel(x: Features, y: Features) -> Features:
    """k(x, y) = (x.y / d + 1)^3."""
    kernel: Features = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def _mean_off_diagonal(kernel: Features) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _weighted_off_diagonal(kernel: Features, weights: Features) -> Features:
    """Weighted mean over pairs of different pictures, for every row of weights, which add up to 1."""
    pairs = ((weights @ kernel) * weights).sum(axis=1) - weights**2 @ np.diag(kernel)
    means: Features = pairs / (1 - (weights**2).sum(axis=1))
    return means
