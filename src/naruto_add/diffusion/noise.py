"""The forward process and its inverses, in fp32: an error in epsilon is amplified 14.6 times into x0 at t = 999.

Ho et al. 2020, eq. 4: x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.params import NUM_TRAIN_TIMESTEPS


def alphas_cumprod(scheduler: Any) -> Float[Tensor, " timesteps"]:
    """alpha_bar of a diffusers scheduler, in fp32."""
    return scheduler.alphas_cumprod.float()


def add_noise(
    latents: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """x_t, fp32."""
    signal, deviation = _coefficients(timesteps, alphas_cumprod, latents)
    return signal * latents.float() + deviation * noise.float()


def noisy_at_trained(
    latents: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """x_t, but pure noise at the last timestep, which is what sampling starts from.

    SD's schedule leaves a signal of 0.068 there (Lin et al. 2024); a few-step student that saw it would expect it.
    """
    noisy = add_noise(latents, noise, timesteps, alphas_cumprod=alphas_cumprod)
    is_last = (timesteps == NUM_TRAIN_TIMESTEPS - 1).to(noisy.device).view(-1, 1, 1, 1)
    return noise.float().where(is_last, noisy)


def x0_from_noise_pred(
    noisy_latents: Float[Tensor, "batch c h w"],
    noise_pred: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """x0 that this prediction of epsilon implies, fp32."""
    signal, deviation = _coefficients(timesteps, alphas_cumprod, noisy_latents)
    return (noisy_latents.float() - deviation * noise_pred.float()) / signal


def noise_pred_from_x0(
    noisy_latents: Float[Tensor, "batch c h w"],
    x0: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """Epsilon that this x0 implies, fp32: the inverse of `x0_from_noise_pred`."""
    signal, deviation = _coefficients(timesteps, alphas_cumprod, noisy_latents)
    return (noisy_latents.float() - signal * x0.float()) / deviation


def snr(timesteps: Int[Tensor, " batch"], *, alphas_cumprod: Float[Tensor, " timesteps"]) -> Float[Tensor, " batch"]:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
    alpha_bar = alphas_cumprod.to(timesteps.device)[timesteps]
    return alpha_bar / (1 - alpha_bar)


def _coefficients(timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar = alphas_cumprod.to(like.device)[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
