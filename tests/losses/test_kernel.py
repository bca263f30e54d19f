"""KID's kernel in closed form, for arrays and tensors, and the distances of sets whose distance is known."""

import numpy as np
import pytest
import torch
from cleanfid import fid
from torch import Tensor

from naruto_add.losses.kernel import kernel_distance, polynomial_kernel


def _gaussian(num: int, size: int, *, seed: int) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed)).double()


def test_the_kernel_is_the_cube_of_the_mean_product_plus_one() -> None:
    x, y = np.array([[1.0, 3.0]]), np.array([[1.0, 1.0], [0.0, -2.0]])
    expected = [[(4 / 2 + 1) ** 3, (-6 / 2 + 1) ** 3]]
    assert polynomial_kernel(x, y).tolist() == expected
    assert polynomial_kernel(torch.from_numpy(x), torch.from_numpy(y)).tolist() == expected


def test_kernel_distance_is_that_of_clean_fid_and_grows_with_a_shift() -> None:
    features, reference = 1.3 * _gaussian(40, 16, seed=0), _gaussian(40, 16, seed=1)
    expected = fid.kernel_distance(features.numpy(), reference.numpy(), num_subsets=1)  # its subset is the whole set
    assert kernel_distance(features, reference).value == pytest.approx(expected, abs=1e-9)
    values = [kernel_distance(_gaussian(40, 16, seed=2) + shift, reference).value for shift in (0.0, 0.5, 1.0)]
    assert abs(values[0]) < 0.05 < values[1] < values[2]


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    distances = [
        kernel_distance(_gaussian(30, 8, seed=2 * i), _gaussian(40, 8, seed=2 * i + 1)).value for i in range(60)
    ]
    error = np.std(distances) / np.sqrt(len(distances))
    assert abs(np.mean(distances)) < 4 * error
    assert min(distances) < 0


def test_kernel_distance_of_a_set_to_itself_is_negative_by_the_excess_of_the_diagonal() -> None:
    """The estimate is unbiased for independent samples; a set and itself are not independent."""
    features = _gaussian(30, 8, seed=0)
    kernel = (features @ features.T / 8 + 1) ** 3
    apart, own = kernel[~torch.eye(30, dtype=torch.bool)].mean().item(), kernel.diagonal().mean().item()
    assert kernel_distance(features, features).value == pytest.approx(-2 / 30 * (own - apart))
    assert own > apart


def test_the_error_of_a_kernel_distance_is_its_deviation_over_other_samples_and_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    distances = [
        kernel_distance(torch.randn(60, 8, generator=generator) + 0.5, torch.randn(40, 8, generator=generator))
        for _ in range(200)
    ]
    deviation = torch.tensor([each.value for each in distances]).std().item()
    assert sum(each.error for each in distances) / len(distances) == pytest.approx(deviation, rel=0.15)


def test_a_difference_of_samples_of_the_same_noise_is_known_better_than_either_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, features = torch.randn(100, 8, generator=generator), torch.randn(60, 8, generator=generator) + 0.5
    near, far = kernel_distance(features, reference), kernel_distance(features + 0.03, reference)
    assert 0 < far.value - near.value < near.error
    assert far.exceeds(near) and not near.exceeds(far) and not near.exceeds(near)
    assert kernel_distance(features * float("nan"), reference).exceeds(far)
