"""The forward process, DDIM's step and their inverses, in closed form or against diffusers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import (
    add_noise,
    add_noise_zero_terminal_snr,
    alphas_cumprod,
    ddim_step,
    noise_pred_to_reach,
    snr,
    step_shift,
    x0_from_noise_pred,
)
from tests.closed_forms import noise_pred_from_x0

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def alphas(tiny_bundle: ModelBundle) -> torch.Tensor:
    return alphas_cumprod(tiny_bundle.scheduler)


def test_alpha_bar_is_that_of_sd15(alphas: torch.Tensor) -> None:
    assert alphas[[249, 499, 749, 999]].sqrt().tolist() == pytest.approx([0.822, 0.527, 0.238, 0.068], abs=1e-3)


def test_x0_and_epsilon_are_recovered_from_x_t(alphas: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 4, 2, 2, generator=generator)
    timesteps = torch.tensor([0, 249, 749, 999])
    noisy = add_noise(x0, noise, timesteps, alphas_cumprod=alphas)
    back = x0_from_noise_pred(noisy, noise, timesteps, alphas_cumprod=alphas)
    torch.testing.assert_close(back, x0, atol=1e-4, rtol=1e-4)
    again = noise_pred_from_x0(noisy, x0, timesteps, alphas_cumprod=alphas)
    torch.testing.assert_close(again, noise, atol=1e-3, rtol=1e-3)


def test_x_t_is_the_sum_of_scaled_signal_and_noise(alphas: torch.Tensor) -> None:
    one = torch.ones(1, 1, 1, 1)
    noisy = add_noise(one, 2 * one, torch.tensor([499]), alphas_cumprod=alphas)
    assert noisy.item() == pytest.approx(math.sqrt(alphas[499]) + 2 * math.sqrt(1 - alphas[499]))


def test_with_zero_terminal_snr_only_the_last_timestep_is_pure_noise(alphas: torch.Tensor) -> None:
    x0, noise = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 3.0)
    noisy = add_noise_zero_terminal_snr(x0, noise, torch.tensor([999, 749]), alphas_cumprod=alphas)
    assert noisy[0].item() == 3.0
    assert noisy[1].item() != 3.0


def test_a_ddim_step_with_noise_pred_to_reach_leads_to_the_state_and_errors_move_it_by_step_shift(
    alphas: torch.Tensor,
) -> None:
    scheduler = DDIMScheduler(**SD15, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(4)
    noisy, later = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for timestep, shift in zip(scheduler.timesteps, (2.5, 1.29, 0.75, 0.69), strict=True):
        steps = timestep.view(1)
        noise = noise_pred_to_reach(later, noisy, steps, stride=250, alphas_cumprod=alphas)
        state, moved = (scheduler.step(noise + error, timestep, noisy).prev_sample for error in (0.0, 1.0))
        torch.testing.assert_close(state, later, rtol=1e-4, atol=1e-4)
        factor = step_shift(steps, stride=250, alphas_cumprod=alphas).item()
        assert factor == pytest.approx((state - moved).mean().item(), rel=1e-3)
        assert factor == pytest.approx(shift, rel=0.01)


def test_snr_is_the_ratio_of_signal_to_noise(alphas: torch.Tensor) -> None:
    assert snr(torch.tensor([499]), alphas_cumprod=alphas).item() == pytest.approx(
        (alphas[499] / (1 - alphas[499])).item()
    )


def test_ddim_steps_from_any_timestep_to_x0_are_those_of_diffusers() -> None:
    """All items in one call, each at its own timestep; the scheduler steps them one after the other."""
    scheduler = DDIMScheduler(**SD15, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(40)
    timesteps = scheduler.timesteps
    x, noise = torch.randn(2, 40, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = [
        scheduler.step(noise[item], timestep, x[item]).prev_sample for item, timestep in enumerate(timesteps.tolist())
    ]
    stepped = ddim_step(x, noise, timesteps, timesteps - 25, alphas_cumprod=alphas_cumprod(scheduler))
    torch.testing.assert_close(stepped, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_many_ddim_steps_follow_the_exact_trajectory_of_normal_data(alphas: torch.Tensor) -> None:
    """For x0 ~ N(mean, deviation^2), E[x0 | x_t] is known, and the trajectory keeps each point at its quantile."""
    mean, deviation = 0.7, 0.4
    x, timesteps = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([999])
    expected = mean + deviation * (x - alphas[999].sqrt() * mean) / _variance(alphas[999], deviation).sqrt()
    while (timesteps >= 0).all():
        bar = alphas[timesteps].view(-1, 1, 1, 1)
        x0 = (deviation**2 * bar.sqrt() * x + (1 - bar) * mean) / _variance(bar, deviation)
        noise = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
        x, timesteps = ddim_step(x, noise, timesteps, timesteps - 4, alphas_cumprod=alphas), timesteps - 4
    torch.testing.assert_close(x, expected, rtol=0, atol=0.02)


def _variance(alpha_bar: torch.Tensor, deviation: float) -> torch.Tensor:
    """The variance of x_t."""
    return alpha_bar * deviation**2 + 1 - alpha_bar
