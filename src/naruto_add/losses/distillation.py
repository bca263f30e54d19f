"""Distances of the student's x0 latents to a target."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def smooth_l1_distillation(
    x0_student: Float[Tensor, "batch *latent"],
    x0_teacher: Float[Tensor, "batch *latent"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean of the weighted smooth L1 distances; no gradient reaches the teacher.

    Sauer et al. 2023 (eq. 4) use the squared distance. The gradient of smooth L1 is bounded, so the noisiest timestep,
    where x0 amplifies an error in epsilon 14.6 times, does not dominate the others.
    """
    error = F.smooth_l1_loss(x0_student, x0_teacher.detach(), reduction="none").flatten(1).mean(dim=1)
    return (weight * error).mean()


def pseudo_huber(
    x0_student: Float[Tensor, "batch *latent"], target: Float[Tensor, "batch *latent"], *, delta: float
) -> Float[Tensor, ""]:
    """Mean over values of sqrt(error^2 + delta^2) - delta: quadratic for errors below `delta`, linear above.

    No gradient reaches the target. Song & Dhariwal 2024 apply it to the norm of whole pictures; per value, the result
    does not depend on the picture's size.
    """
    error = x0_student - target.detach()
    return ((error.square() + delta**2).sqrt() - delta).mean()
