"""The loss of a model that predicts epsilon."""

from jaxtyping import Float
from torch import Tensor


def min_snr_loss(
    noise_pred: Float[Tensor, "batch *latent"],
    noise: Float[Tensor, "batch *latent"],
    snr: Float[Tensor, " batch"],
    *,
    snr_gamma: float,
) -> Float[Tensor, ""]:
    """Mean squared error, weighted by min(snr, gamma) / snr (Hang et al. 2023, eq. 7), which is 1 at high noise."""
    error = (noise_pred - noise).square().flatten(1).mean(dim=1)
    weight = snr.clamp(max=snr_gamma) / snr
    return (weight * error).mean()
