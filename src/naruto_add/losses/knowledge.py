"""Knowledge distillation from a frozen teacher into a smaller student (BK-SDM, Kim et al. 2023, eq. 1-3)."""

import torch
from jaxtyping import Float
from torch import Tensor


def weighted_error(
    prediction: Float[Tensor, "batch *latent"], target: Float[Tensor, "batch *latent"], weight: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean of the weighted squared errors; no gradient reaches the target.

    Departs from BK-SDM, which weights all timesteps equally: how far an error in epsilon moves the student's sample
    depends on the timestep.
    """
    error = (prediction - target.detach()).square().flatten(1).mean(dim=1)
    return (weight * error).mean()


def feature_loss(student: list[Tensor], teacher: list[Tensor]) -> Float[Tensor, ""]:
    """Mean over items and blocks of the squared error divided by the teacher's mean square: 1 for a student of zeros.

    No gradient reaches the teacher. BK-SDM's loss is not divided: blocks of large scale dominate it, and its weight has
    to be tuned for each model.
    """
    pairs = [(mine.float(), its.detach().float()) for mine, its in zip(student, teacher, strict=True)]
    errors = [_power(mine - its) / _power(its).clamp(min=1e-8) for mine, its in pairs]
    return torch.stack(errors).mean()


def _power(features: Float[Tensor, "batch *features"]) -> Float[Tensor, " batch"]:
    return features.square().flatten(1).mean(dim=1)
