"""The forward diffusion process, DDIM's step, and their inverses, all in fp32.

Ho et al. 2020, eq. 4: x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps. In fp32 because an error in epsilon is
amplified 14.6 times into x0 at t = 999.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS


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


def add_noise_zero_terminal_snr(
    latents: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """x_t, fp32, with pure noise at the last timestep, as at the start of sampling.

    SD's schedule leaves a signal of 0.068 at the last timestep (Lin et al. 2024). A few-step student trained with it
    would rely on a signal that sampling does not provide.
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
    """The x0 that this prediction of epsilon implies, fp32."""
    signal, deviation = _coefficients(timesteps, alphas_cumprod, noisy_latents)
    return (noisy_latents.float() - deviation * noise_pred.float()) / signal


def noise_from_v_pred(
    noisy_latents: Float[Tensor, "batch c h w"],
    v_pred: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """The epsilon that this prediction of v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 implies, fp32.

    Salimans & Ho 2022, appendix D: eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t. Losses need no other weights: a
    squared error of epsilon with the min-SNR weight of epsilon equals one of v with the min-SNR weight of v.
    """
    signal, deviation = _coefficients(timesteps, alphas_cumprod, noisy_latents)
    return signal * v_pred.float() + deviation * noisy_latents.float()


def ddim_step(
    noisy_latents: Float[Tensor, "batch c h w"],
    noise_pred: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    later: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """x at the timesteps `later`, fp32 (Song et al. 2021, eq. 12, with sigma 0); x0 for those below 0.

    Each item steps between timesteps of its own; a scheduler of diffusers steps all items between the same two.
    """
    x0 = x0_from_noise_pred(noisy_latents, noise_pred, timesteps, alphas_cumprod=alphas_cumprod)
    x_later = add_noise(x0, noise_pred, later.clamp(min=0), alphas_cumprod=alphas_cumprod)
    return x0.where((later < 0).view(-1, 1, 1, 1), x_later)


def step_shift(
    timesteps: Int[Tensor, " batch"], *, stride: int, alphas_cumprod: Float[Tensor, " timesteps"]
) -> Float[Tensor, " batch"]:
    """The distance by which a unit error in epsilon at `timesteps` moves the result of a DDIM step of `stride`.

    x_s = sqrt(a_s) x0(eps) + sqrt(1 - a_s) eps (Song et al. 2021, eq. 12), with a_s = 1 for s below 0. With four steps
    the distance is 2.5, 1.3, 0.75 and 0.69 at t = 999, 749, 499 and 249. In x0 it is 14.6 at t = 999, but later steps
    correct most of that error.
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
    """The epsilon, fp32, with which a DDIM step of `stride` timesteps maps `noisy_latents` to `next_latents`."""
    now, after = _now_and_after(timesteps, stride, alphas_cumprod)
    kept = (after / now).sqrt().view(-1, 1, 1, 1).to(noisy_latents.device)
    shift = step_shift(timesteps, stride=stride, alphas_cumprod=alphas_cumprod).view(-1, 1, 1, 1)
    return (kept * noisy_latents.float() - next_latents.float()) / shift.to(noisy_latents.device)


def snr(timesteps: Int[Tensor, " batch"], *, alphas_cumprod: Float[Tensor, " timesteps"]) -> Float[Tensor, " batch"]:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
    alpha_bar = alphas_cumprod.to(timesteps.device)[timesteps]
    return alpha_bar / (1 - alpha_bar)


def _now_and_after(timesteps: Tensor, stride: int, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_bar at these timesteps and `stride` timesteps later; 1 for later timesteps below 0."""
    alphas_cumprod = alphas_cumprod.to(timesteps.device)
    later = alphas_cumprod[(timesteps - stride).clamp(min=0)]
    return alphas_cumprod[timesteps], later.where(timesteps >= stride, 1.0)


def _coefficients(timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), to be multiplied with latents on the device of `like`."""
    alpha_bar = alphas_cumprod.to(like.device)[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
