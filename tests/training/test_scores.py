"""Scores of sets of samples whose distance is known, and the check of a student before adversarial training."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from naruto_add.runtime.errors import StageError
from naruto_add.training.scores import (
    check_can_sample,
    colour_drift,
    prompt_match,
    relative_sample_error,
    spread,
)


@pytest.fixture
def latents() -> Tensor:
    noise = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1, padding=1) * 3


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
    assert colour_drift(noisy, reference) < 0.02


def test_prompt_match_is_one_for_the_teachers_own_pictures_and_a_half_for_pictures_of_other_prompts() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, prompts = torch.randn(60, 8, generator=generator), torch.arange(60) // 2
    assert prompt_match(reference, reference, prompts) == 1.0
    assert prompt_match(reference + 0.3 * torch.randn(60, 8, generator=generator), reference, prompts) > 0.95
    assert prompt_match(reference[torch.randperm(60, generator=generator)], reference, prompts) == pytest.approx(
        0.5, abs=0.1
    )
    assert prompt_match(reference[:2], reference[:2], torch.zeros(2, dtype=torch.long)) == 1.0  # a single prompt
