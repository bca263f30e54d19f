"""The forward process and its inverses, in fp32: an error in epsilon is amplified 14.6 times into x0 at t = 999.

Ho et al. 2020, eq. 4: x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.conventions import NUM_TRAIN_TIMESTEPS


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


def step_shift(
    timesteps: Int[Tensor, " batch"], *, stride: int, alphas_cumprod: Float[Tensor, " timesteps"]
) -> Float[Tensor, " batch"]:
    """How far a unit error in epsilon at `timesteps` moves the next state of a DDIM step of `stride` timesteps.

    x_s = sqrt(a_s) x0(eps) + sqrt(1 - a_s) eps (Song et al. 2021, eq. 12), and a_s = 1 beyond the end. With four steps
    it is 2.5, 1.3, 0.75 and 0.69 at t = 999, 749, 499 and 249; in x0 the error is 14.6 times as large at 999, where
    later steps still mend what the first one drew.
    """
    now, after = _now_and_after(timesteps, stride, alphas_cumprod)
    return after.sqrt() * ((1 - now) / now).sqrt() - (1 - after).sqrt()


def noise_pred_to_reach(
    next_latents: Float[Tensor, "batch c h w"],
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    stride: int,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """Epsilon, fp32, with which a DDIM step of `stride` timesteps leads from `noisy_latents` to `next_latents`."""
    now, after = _now_and_after(timesteps, stride, alphas_cumprod)
    kept = (after / now).sqrt().view(-1, 1, 1, 1).to(noisy_latents.device)
    shift = step_shift(timesteps, stride=stride, alphas_cumprod=alphas_cumprod).view(-1, 1, 1, 1)
    return (kept * noisy_latents.float() - next_latents.float()) / shift.to(noisy_latents.device)


def snr(timesteps: Int[Tensor, " batch"], *, alphas_cumprod: Float[Tensor, " timesteps"]) -> Float[Tensor, " batch"]:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
    alpha_bar = alphas_cumprod.to(timesteps.device)[timesteps]
    return alpha_bar / (1 - alpha_bar)


def _now_and_after(timesteps: Tensor, stride: int, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_bar at these timesteps and one stride later, where it is 1 beyond the end."""
    alphas_cumprod = alphas_cumprod.to(timesteps.device)
    later = alphas_cumprod[(timesteps - stride).clamp(min=0)]
    return alphas_cumprod[timesteps], later.where(timesteps >= stride, 1.0)


def _coefficients(timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar = alphas_cumprod.to(like.device)[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
