"""Distances between two sets of feature vectors: the Frechet distance (FID's formula) and the kernel distance (KID's).

Both equal clean-fid's on the same features. They are written out here because clean-fid's matrix square root loses four
digits and takes seconds if there are fewer pictures than features. In that case both covariances are rank-deficient and
the Frechet distance has an upward bias that depends on the number of pictures, so compare only distances of equal
numbers. The kernel distance has no such bias.
"""

import numpy as np
from numpy.typing import NDArray

from naruto_add.losses.kernel import polynomial_kernel

Features = NDArray[np.float64]
"""One row per picture, (number, features)."""


def frechet_distance(features: Features, reference: Features) -> float:
    """Squared Wasserstein-2 distance of the Gaussians with these means and covariances (Heusel et al. 2017).

    With covariances A'A and B'B, tr sqrt(A'A B'B) is the sum of the singular values of A B'.
    """
    shift = features.mean(axis=0) - reference.mean(axis=0)
    a, b = _covariance_root(features), _covariance_root(reference)
    tr_covmean = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * tr_covmean))


def kernel_distance(features: Features, reference: Features) -> float:
    """Unbiased squared maximum mean discrepancy (Binkowski et al. 2018); it can be negative."""
    within = _mean_off_diagonal(polynomial_kernel(features, features))
    within_reference = _mean_off_diagonal(polynomial_kernel(reference, reference))
    return float(within + within_reference - 2 * polynomial_kernel(features, reference).mean())


def _covariance_root(features: Features) -> Features:
    """A matrix R with R'R the covariance, of at most as many rows as there are features."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def _mean_off_diagonal(kernel: Features) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
