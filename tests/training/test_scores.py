"""Scores of sets of samples whose distance is known, and the check of a student before adversarial training."""

import pytest
import torch
import torch.nn.functional as F
from cleanfid import fid
from torch import Tensor

from naruto_add.runtime.errors import StageError
from naruto_add.training.scores import (
    check_can_sample,
    colour_drift,
    paired_kernel_distance,
    relative_sample_error,
    sliced_distance,
    spread,
)


@pytest.fixture
def latents() -> Tensor:
    noise = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1, padding=1) * 3


def test_sliced_distance_of_a_set_to_itself_is_zero_in_any_order(latents: Tensor) -> None:
    assert sliced_distance(latents, latents).item() == 0
    assert sliced_distance(latents.flip(0), latents).item() == pytest.approx(0, abs=1e-6)


def test_sliced_distance_grows_linearly_with_a_shift(latents: Tensor) -> None:
    """Sorted projections of a shifted set differ by the projection of the shift."""
    once, twice = (sliced_distance(latents + shift, latents).item() for shift in (0.5, 1.0))
    assert twice == pytest.approx(2 * once, rel=1e-5)


def test_sliced_distance_rises_with_blur_which_lowers_the_squared_error(latents: Tensor) -> None:
    other = latents.flip(0)
    blurred = F.avg_pool2d(latents, 3, stride=1, padding=1)
    assert F.mse_loss(blurred, latents) < F.mse_loss(other, latents)
    assert sliced_distance(blurred, latents) > 10 * sliced_distance(other, latents)


def test_sliced_distance_rises_if_all_samples_are_the_same(latents: Tensor) -> None:
    repeated = latents[:1].expand_as(latents)
    assert sliced_distance(repeated, latents) > 1.5 * sliced_distance(latents[:8], latents[8:])


def test_sliced_distance_does_not_depend_on_the_scale_of_both_sets(latents: Tensor) -> None:
    blurred = F.avg_pool2d(latents, 3, stride=1, padding=1)
    torch.testing.assert_close(sliced_distance(blurred * 7, latents * 7), sliced_distance(blurred, latents))


def test_colour_drift_is_the_shift_of_a_channel_in_standard_deviations() -> None:
    reference = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    shifted = reference.clone()
    shifted[:, 2] += 0.7 * reference.std()
    assert colour_drift(reference, reference).item() == 0
    assert abs(colour_drift(shifted, reference).item() - 0.7) < 1e-5


def test_spread_is_the_deviation_between_samples_of_one_prompt() -> None:
    prompts = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert spread(prompts.expand(3, 4, 4, 8, 8)).item() == 0
    noise = torch.randn(3, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert abs(spread(prompts + 0.5 * noise).item() - 0.5) < 0.02


def test_relative_error_is_one_for_the_mean_sample_and_a_quarter_halfway_from_it() -> None:
    x0_teacher = torch.randn(16, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    constant = x0_teacher.mean(dim=0)
    assert relative_sample_error(x0_teacher, x0_teacher, constant=constant) == 0
    assert relative_sample_error(constant.expand_as(x0_teacher), x0_teacher, constant=constant) == pytest.approx(1)
    halfway = (x0_teacher + constant) / 2
    assert relative_sample_error(halfway, x0_teacher, constant=constant) == pytest.approx(0.25)


def test_a_student_that_is_better_than_the_mean_sample_passes_the_check() -> None:
    x0_teacher = torch.randn(16, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    constant = x0_teacher.mean(dim=0)
    halfway = (x0_teacher + constant) / 2
    assert check_can_sample(x0_teacher, x0_teacher, constant=constant) == 0
    assert check_can_sample(halfway, x0_teacher, constant=constant) == pytest.approx(0.25)


@pytest.mark.parametrize("samples", ["mean sample", "other prompts", "noise", "not finite"])
def test_a_student_that_is_no_better_than_the_mean_sample_fails_the_check(samples: str) -> None:
    x0_teacher = torch.randn(16, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    constant = x0_teacher.mean(dim=0)
    x0_student = {
        "mean sample": constant.expand_as(x0_teacher),
        "other prompts": x0_teacher.roll(1, dims=0),
        "noise": 3 * torch.randn(16, 4, 4, 4, generator=torch.Generator().manual_seed(1)),
        "not finite": x0_teacher * float("nan"),
    }[samples]
    with pytest.raises(StageError, match=r"the student cannot sample: .* raise student\.num_steps"):
        check_can_sample(x0_student, x0_teacher, constant=constant)


def test_noise_in_an_unused_channel_hardly_counts() -> None:
    reference = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    reference[:, 3] *= 0.01
    noisy = reference.clone()
    noisy[:, 3] += 0.01
    assert sliced_distance(noisy, reference) < 0.01
    assert colour_drift(noisy, reference) < 0.02


def test_paired_kernel_distance_is_that_of_clean_fid_without_the_pairs_and_grows_with_a_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    features, reference = (torch.randn(40, 16, generator=generator).double() for _ in range(2))
    pairs = ((features * reference).sum(dim=1) / 16 + 1) ** 3
    across = (features @ reference.T / 16 + 1) ** 3
    counted = fid.kernel_distance(features.numpy(), reference.numpy(), num_subsets=1)
    expected = counted + 2 * across.mean() - 2 * (across.sum() - pairs.sum()) / (40 * 39)
    assert paired_kernel_distance(features, reference).item() == pytest.approx(expected.item(), abs=1e-9)
    distances = [paired_kernel_distance(features + shift, reference).item() for shift in (0.0, 0.5, 1.0)]
    assert abs(distances[0]) < 0.05 < distances[1] < distances[2]


def test_paired_kernel_distance_of_similar_pairs_is_not_below_zero() -> None:
    reference = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)) * 3
    assert paired_kernel_distance(reference, reference).item() == pytest.approx(0, abs=1e-9)
    assert fid.kernel_distance(reference.numpy(), reference.numpy(), num_subsets=1) < -1
    assert paired_kernel_distance(0.9 * reference, reference).item() > 0
