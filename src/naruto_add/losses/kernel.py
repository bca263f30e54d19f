"""The kernel of the kernel inception distance (Binkowski et al. 2018)."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Vectors = TypeVar("Vectors", NDArray[np.float64], Tensor)
"""(number, width), as an array or as a tensor."""


def polynomial_kernel(x: Vectors, y: Vectors) -> Vectors:
    """k(x, y) = (x . y / width + 1)^3 of every pair of rows, (number of x, number of y)."""
    return (x @ y.T / x.shape[1] + 1) ** 3
