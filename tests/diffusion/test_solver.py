"""The teacher's answer to any x_t, against teachers whose answer is known."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.noise import alphas_cumprod, x0_from_noise_pred
from naruto_add.diffusion.sampling import fast_sampler, guided_noise_pred, initial_noise, sample_latents
from naruto_add.diffusion.solver import ddim_step, solve_x0

BAR = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)
MEAN, DEVIATION = 0.7, 0.4


def posterior_mean(x: Tensor, timesteps: Tensor) -> Tensor:
    """E[x0 | x_t] of data that are normal: what a perfect model predicts."""
    bar = BAR[timesteps].view(-1, 1, 1, 1)
    variance = bar * DEVIATION**2 + 1 - bar
    return (DEVIATION**2 * bar.sqrt() * x + (1 - bar) * MEAN) / variance


def exact(x: Tensor, timesteps: Tensor) -> Tensor:
    """The flow keeps every point at its quantile."""
    bar = BAR[timesteps].view(-1, 1, 1, 1)
    return MEAN + DEVIATION * (x - bar.sqrt() * MEAN) / (bar * DEVIATION**2 + 1 - bar).sqrt()


def errors(num_steps: int) -> Tensor:
    timesteps = torch.tensor([999, 749, 499, 249])
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    solved = solve_x0(posterior_mean, x, timesteps, num_steps=num_steps, alphas_cumprod=BAR)
    return (solved - exact(x, timesteps)).abs().amax(dim=(1, 2, 3))


def test_the_solve_is_the_flows_own_end_from_every_timestep() -> None:
    """One step is the model's own x0; four times as many steps leave a third of the error, and many none."""
    one, few, many = errors(1), errors(4), errors(16)
    assert (few < 0.6 * one).all() and (many < few / 3).all()
    assert (errors(200) < 0.01).all()


def test_the_solve_of_few_steps_agrees_with_a_fine_one() -> None:
    x = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([749, 499])
    few, fine = (solve_x0(posterior_mean, x, timesteps, num_steps=n, alphas_cumprod=BAR) for n in (16, 250))
    torch.testing.assert_close(few, fine, rtol=0, atol=0.1)  # of values that a single step misses by 0.6


def test_items_do_not_depend_on_each_other() -> None:
    x = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    both = solve_x0(posterior_mean, x, torch.tensor([999, 249]), num_steps=5, alphas_cumprod=BAR)
    alone = solve_x0(posterior_mean, x[1:], torch.tensor([249]), num_steps=5, alphas_cumprod=BAR)
    torch.testing.assert_close(both[1:], alone)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_from_pure_noise_it_is_diffusers_dpm_solver(tiny_bundle: ModelBundle, num_steps: int) -> None:
    """So that a solve and a sample of the pool are the same teacher."""
    embeds, empty = encode_prompts(tiny_bundle, ["a man"]), encode_prompts(tiny_bundle, [""])
    noise, bar = initial_noise(tiny_bundle, 1, seed=0), alphas_cumprod(tiny_bundle.scheduler)

    def predict_x0(x: Tensor, timesteps: Tensor) -> Tensor:
        noise_pred = guided_noise_pred(
            tiny_bundle.unet, x, timesteps, prompt_embeds=embeds, negative_embeds=empty, guidance_scale=3.0
        )
        return x0_from_noise_pred(x, noise_pred, timesteps, alphas_cumprod=bar)

    solved = solve_x0(predict_x0, noise, torch.tensor([999]), num_steps=num_steps, alphas_cumprod=bar)
    expected = sample_latents(
        tiny_bundle.unet,
        noise=noise,
        prompt_embeds=embeds,
        negative_embeds=empty,
        sampler=fast_sampler(tiny_bundle, num_steps, 3.0),
    )
    torch.testing.assert_close(solved, expected, rtol=1e-3, atol=1e-3)


def test_a_ddim_step_is_diffusers_from_every_timestep_to_the_end() -> None:
    """All items in one call, each at a timestep of its own, as the scheduler steps one after the other."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(40)
    timesteps = scheduler.timesteps
    x, noise = torch.randn(2, 40, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = [
        scheduler.step(noise[item], timestep, x[item]).prev_sample for item, timestep in enumerate(timesteps.tolist())
    ]
    stepped = ddim_step(x, noise, timesteps, timesteps - 25, alphas_cumprod=alphas_cumprod(scheduler))
    torch.testing.assert_close(stepped, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_ddim_steps_lead_where_the_flow_does() -> None:
    """Of data that are normal: the last step without noise included."""
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected, timesteps = exact(x, torch.tensor([999])), torch.tensor([999])
    while (timesteps >= 0).all():
        bar = BAR[timesteps].view(-1, 1, 1, 1)
        noise = (x - bar.sqrt() * posterior_mean(x, timesteps)) / (1 - bar).sqrt()
        x, timesteps = ddim_step(x, noise, timesteps, timesteps - 4, alphas_cumprod=BAR), timesteps - 4
    torch.testing.assert_close(x, expected, rtol=0, atol=0.02)
