"""Closed forms of the knowledge distillation losses."""

import pytest
import torch
from diffusers import DDIMScheduler

from naruto_add.losses.knowledge import feature_loss, over_nonzero, step_weight, weighted_error

SCHEDULER = DDIMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    timestep_spacing="trailing",
    set_alpha_to_one=True,
    clip_sample=False,
)


def test_step_weight_is_what_a_ddim_step_makes_of_an_error() -> None:
    SCHEDULER.set_timesteps(4)
    noisy_latents, noise_pred = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    weights = step_weight(SCHEDULER.timesteps, stride=250, alphas_cumprod=SCHEDULER.alphas_cumprod)
    for timestep, weight in zip(SCHEDULER.timesteps, weights, strict=True):
        state, moved = (SCHEDULER.step(noise_pred + error, timestep, noisy_latents).prev_sample for error in (0.0, 0.1))
        torch.testing.assert_close((moved - state).square().mean() / 0.01, weight, rtol=1e-3, atol=0)
    torch.testing.assert_close(weights, torch.tensor([6.26, 1.66, 0.566, 0.481]), rtol=0.05, atol=0)


def test_weighted_error_averages_over_the_items_that_count() -> None:
    prediction = torch.tensor([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    loss = weighted_error(prediction, torch.zeros(3, 2), over_nonzero(torch.tensor([1.0, 0.5, 0.0])))
    assert loss.item() == pytest.approx((1 * 1 + 0.5 * 4) / 2)
    assert weighted_error(prediction, torch.zeros(3, 2), over_nonzero(torch.zeros(3))).item() == 0


def test_no_gradient_reaches_the_target() -> None:
    prediction, target = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    loss = weighted_error(prediction, target, torch.ones(2)) + feature_loss([prediction], [target])
    loss.backward()
    assert target.grad is None
    assert prediction.grad is not None


def test_feature_loss_is_free_of_scale() -> None:
    student, teacher = [torch.randn(2, 3), torch.randn(2, 5)], [torch.randn(2, 3), torch.randn(2, 5)]
    scaled = feature_loss([1000 * student[0], student[1]], [1000 * teacher[0], teacher[1]])
    torch.testing.assert_close(scaled, feature_loss(student, teacher))
    silent = feature_loss([torch.zeros(2, 3), torch.zeros(2, 5)], teacher)
    assert silent.item() == pytest.approx(1)
    assert feature_loss(teacher, teacher).item() == 0
