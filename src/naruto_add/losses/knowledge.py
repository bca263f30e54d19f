"""Knowledge distillation from a frozen teacher into a shrunken copy (BK-SDM, Kim et al. 2023, eq. 1-3).

All three losses measure epsilon or features, but an error in epsilon does not count alike at all timesteps: the weight
is for how much it moves the sample that the student draws.
"""

import torch
from jaxtyping import Float
from torch import Tensor


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
