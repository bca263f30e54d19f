"""Knowledge distillation from a frozen teacher into a shrunken copy (BK-SDM, Kim et al. 2023, eq. 1-3).

All three losses measure epsilon or features, but an error in epsilon does not count alike at all timesteps; the weight
says how much it moves the sample that the student draws.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def step_weight(
    timesteps: Int[Tensor, " batch"], *, stride: int, alphas_cumprod: Float[Tensor, " timesteps"]
) -> Float[Tensor, " batch"]:
    """Squared shift of the next state for a unit error in epsilon at `timesteps`, in a DDIM step of `stride` timesteps.

    x_s = sqrt(a_s) x0(eps) + sqrt(1 - a_s) eps (Song et al. 2021, eq. 12), and a_s = 1 beyond the end. With four steps
    it is 6.3, 1.7, 0.57 and 0.48 at t = 999, 749, 499 and 249; the weight 1 / snr of a loss on x0 would be 214 at 999,
    where later steps still mend what the first one drew.
    """
    alphas_cumprod = alphas_cumprod.to(timesteps.device)
    now = alphas_cumprod[timesteps]
    after = alphas_cumprod[(timesteps - stride).clamp(min=0)].where(timesteps >= stride, 1.0)
    shift = after.sqrt() * ((1 - now) / now).sqrt() - (1 - after).sqrt()
    return shift.square()


def over_nonzero(weight: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The weights scaled so that a mean over all items is one over those whose weight is not 0.

    To be taken over the whole batch: its parts, computed apart, then add up to it.
    """
    return weight * len(weight) / weight.count_nonzero().clamp(min=1)


def weighted_error(
    prediction: Float[Tensor, "batch *latent"], target: Float[Tensor, "batch *latent"], weight: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean of the weighted squared errors."""
    error = (prediction - target.detach()).square().flatten(1).mean(dim=1)
    return (weight * error).mean()


def feature_loss(student: list[Tensor], teacher: list[Tensor]) -> Float[Tensor, ""]:
    """Mean over items and blocks of the squared error relative to the teacher's power: 1 for a silent student.

    BK-SDM's loss is absolute; relative, no block outweighs the others and one weight fits models of any scale.
    """
    pairs = [(mine.float(), its.detach().float()) for mine, its in zip(student, teacher, strict=True)]
    errors = [_power(mine - its) / _power(its).clamp(min=1e-8) for mine, its in pairs]
    return torch.stack(errors).mean()


def _power(features: Float[Tensor, "batch *features"]) -> Float[Tensor, " batch"]:
    return features.square().flatten(1).mean(dim=1)
