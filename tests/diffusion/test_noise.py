"""The forward process and its inverses, in closed form."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import (
    add_noise,
    alphas_cumprod,
    noise_pred_to_reach,
    noisy_at_trained,
    snr,
    step_shift,
    x0_from_noise_pred,
)
from tests.closed_forms import noise_pred_from_x0

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def alphas(tiny_bundle: ModelBundle) -> torch.Tensor:
    return alphas_cumprod(tiny_bundle.scheduler)


def test_schedule_is_that_of_sd15(alphas: torch.Tensor) -> None:
    assert alphas[[249, 499, 749, 999]].sqrt().tolist() == pytest.approx([0.822, 0.527, 0.238, 0.068], abs=1e-3)


def test_inverses(alphas: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 4, 2, 2, generator=generator)
    timesteps = torch.tensor([0, 249, 749, 999])
    noisy = add_noise(x0, noise, timesteps, alphas_cumprod=alphas)
    back = x0_from_noise_pred(noisy, noise, timesteps, alphas_cumprod=alphas)
    torch.testing.assert_close(back, x0, atol=1e-4, rtol=1e-4)
    again = noise_pred_from_x0(noisy, x0, timesteps, alphas_cumprod=alphas)
    torch.testing.assert_close(again, noise, atol=1e-3, rtol=1e-3)


def test_add_noise_uses_the_schedulers_alphas(alphas: torch.Tensor) -> None:
    one = torch.ones(1, 1, 1, 1)
    noisy = add_noise(one, 2 * one, torch.tensor([499]), alphas_cumprod=alphas)
    assert noisy.item() == pytest.approx(math.sqrt(alphas[499]) + 2 * math.sqrt(1 - alphas[499]))


def test_last_timestep_is_pure_noise(alphas: torch.Tensor) -> None:
    x0, noise = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 3.0)
    noisy = noisy_at_trained(x0, noise, torch.tensor([999, 749]), alphas_cumprod=alphas)
    assert noisy[0].item() == 3.0
    assert noisy[1].item() != 3.0


def test_a_ddim_step_of_the_noise_to_reach_a_state_arrives_there(alphas: torch.Tensor) -> None:
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


def test_snr(alphas: torch.Tensor) -> None:
    assert snr(torch.tensor([499]), alphas_cumprod=alphas).item() == pytest.approx(
        (alphas[499] / (1 - alphas[499])).item()
    )
