"""The kernel inception distance (Binkowski et al. 2018) of two sets of feature vectors, with its standard error."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

NUM_ERRORS = 2.0
"""Standard errors by which two distances must differ to count as different."""

Vectors = TypeVar("Vectors", NDArray[np.float64], Tensor)
"""(number, width), as an array or as a tensor."""


def polynomial_kernel(x: Vectors, y: Vectors) -> Vectors:
    """k(x, y) = (x . y / width + 1)^3 of every pair of rows, (number of x, number of y)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


@dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy, with what every sample and every reference picture contributes to it.

    `of_samples` and `of_pictures`, fp64, are the first-order terms of the U-statistic (Hoeffding 1948). Their spread
    gives the error of the distance, and the spread of the differences of two sets' terms the error of the difference.
    """

    value: float
    of_samples: Float[Tensor, " samples"]
    of_pictures: Float[Tensor, " pictures"]

    @property
    def error(self) -> float:
        """Standard error over samples and pictures."""
        return _standard_error(self.of_samples, self.of_pictures)

    def exceeds(self, other: "KernelDistance") -> bool:
        """Whether this distance is larger than `other` by more than NUM_ERRORS standard errors of the difference.

        Both must be of samples of the same noise and prompts, which vary together: the difference has a smaller error
        than either distance. A distance that is not a number exceeds all others.
        """
        error = _standard_error(self.of_samples - other.of_samples, self.of_pictures - other.of_pictures)
        return not self.value - other.value <= NUM_ERRORS * error


@torch.no_grad()
def kernel_distance(
    features: Float[Tensor, "samples width"], reference: Float[Tensor, "pictures width"]
) -> KernelDistance:
    """Squared maximum mean discrepancy with KID's kernel (Binkowski et al. 2018), unbiased; fp64.

    It is the U-statistic of Gretton et al. 2012, eq. 3, which compares no sample with itself, so it is below 0 for
    about half of the sets from the reference's own distribution. Requires two samples and two pictures.
    """
    x, y = features.double(), reference.double()
    to_samples, to_pictures = _mean_of_others(polynomial_kernel(x, x)), _mean_of_others(polynomial_kernel(y, y))
    across = polynomial_kernel(x, y)
    value = to_samples.mean() + to_pictures.mean() - 2 * across.mean()
    return KernelDistance(
        value.item(),
        of_samples=2 * (to_samples - across.mean(dim=1)),
        of_pictures=2 * (to_pictures - across.mean(dim=0)),
    )


def _mean_of_others(kernel: Float[Tensor, "items items"]) -> Float[Tensor, " items"]:
    """The mean of each row without the item's value for itself."""
    return (kernel.sum(dim=1) - kernel.diagonal()) / (len(kernel) - 1)


def _standard_error(*terms: Tensor) -> float:
    """Standard error of the sum of the means of independent terms."""
    return sum((each.var() / len(each)).item() for each in terms) ** 0.5
