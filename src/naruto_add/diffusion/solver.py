"""The teacher's way on from any x_t, for items at timesteps of their own: to the end, or a single step.

diffusers' schedulers step all items of a batch at one timestep. DPM-Solver++(2M) (Lu et al. 2022) leads to x0, DDIM
(Song et al. 2021) takes the step.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.diffusion.noise import add_noise, x0_from_noise_pred

PredictX0 = Callable[[Tensor, Tensor], Tensor]
"""x0 that a model sees in x_t at these timesteps."""


@torch.no_grad()
def solve_x0(
    predict_x0: PredictX0,
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    num_steps: int,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """Where the probability flow leads x_t, in `num_steps` calls; from the last timestep as `fast_sampler` does.

    `num_steps` must not be above timestep + 1, so that every call is at a timestep of its own. Lu et al. 2022,
    algorithm 2, whose last step is of first order: at no noise x0 is the model's own.
    """
    grid = [_trailing(timesteps, step, num_steps) for step in range(num_steps)]
    x, previous_x0, previous_h = noisy_latents.float(), noisy_latents, torch.zeros(())
    for now, later in pairwise(grid):
        x0 = predict_x0(x, now)
        h = _half_log_snr(later, alphas_cumprod) - _half_log_snr(now, alphas_cumprod)
        # D_i = (1 + 1 / (2 r_i)) x0_{i-1} - 1 / (2 r_i) x0_{i-2}, r_i = h_{i-1} / h_i; the first step has no past
        half_inverse_r = torch.zeros_like(h) if now is grid[0] else h / previous_h / 2
        d = (1 + half_inverse_r) * x0 - half_inverse_r * previous_x0
        # x_i = sigma_i / sigma_{i-1} x_{i-1} - alpha_i (exp(-h_i) - 1) D_i
        ratio = _sigma(later, alphas_cumprod) / _sigma(now, alphas_cumprod)
        x = ratio * x - _alpha(later, alphas_cumprod) * torch.expm1(-h) * d
        previous_x0, previous_h = x0, h
    return predict_x0(x, grid[-1])


def ddim_step(
    noisy_latents: Float[Tensor, "batch c h w"],
    noise_pred: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    later: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """x at the timesteps `later`, fp32; where these are below 0, without noise (Song et al. 2021, eq. 12, sigma 0)."""
    x0 = x0_from_noise_pred(noisy_latents, noise_pred, timesteps, alphas_cumprod=alphas_cumprod)
    x_later = add_noise(x0, noise_pred, later.clamp(min=0), alphas_cumprod=alphas_cumprod)
    return x0.where((later < 0).view(-1, 1, 1, 1), x_later)


def _trailing(timesteps: Tensor, step: int, num_steps: int) -> Tensor:
    """`timestep_spacing="trailing"` of a schedule that begins at each item's own timestep."""
    return ((timesteps + 1) * (num_steps - step) / num_steps).round().long() - 1


def _alpha(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    return alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)


def _sigma(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    return (1 - alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)


def _half_log_snr(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    return (_alpha(timesteps, alphas_cumprod) / _sigma(timesteps, alphas_cumprod)).log()
