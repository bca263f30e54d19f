"""The Frechet distance of two sets of feature vectors (FID's formula).

It equals clean-fid's on the same features. It is written out here because clean-fid's matrix square root loses four
digits and takes seconds if there are fewer pictures than features. In that case both covariances are rank-deficient and
the distance has an upward bias that depends on the number of pictures, so compare only distances of equal numbers.
"""

import numpy as np
from numpy.typing import NDArray

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


def _covariance_root(features: Features) -> Features:
    """A matrix R with R'R the covariance, of at most as many rows as there are features."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))
