"""The kernel of KID in closed form, for arrays and tensors."""

import numpy as np
import torch

from naruto_add.losses.kernel import polynomial_kernel


def test_the_kernel_is_the_cube_of_the_mean_product_plus_one() -> None:
    x, y = np.array([[1.0, 3.0]]), np.array([[1.0, 1.0], [0.0, -2.0]])
    expected = [[(4 / 2 + 1) ** 3, (-6 / 2 + 1) ** 3]]
    assert polynomial_kernel(x, y).tolist() == expected
    assert polynomial_kernel(torch.from_numpy(x), torch.from_numpy(y)).tolist() == expected
