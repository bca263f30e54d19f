"""Inverses of functions of the code, for tests."""

from jaxtyping import Float, Int
from torch import Tensor


def noise_pred_from_x0(
    noisy_latents: Float[Tensor, "batch c h w"],
    x0: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """The epsilon that this x0 implies, fp32: the inverse of `x0_from_noise_pred`."""
    bar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return (noisy_latents.float() - bar.sqrt() * x0.float()) / (1 - bar).sqrt()
