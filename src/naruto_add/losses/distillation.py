"""How far the student's clean latents are from the teacher's."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def smooth_l1_distillation(
    x0_student: Float[Tensor, "batch *latent"],
    x0_teacher: Float[Tensor, "batch *latent"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Weighted mean of the smooth L1 distance; no gradient reaches the teacher's side.

    Sauer et al. 2023 (eq. 4) use the squared distance; the bounded gradient of this one keeps the noisiest timestep,
    where an error in the predicted noise counts 14-fold, from drowning the others.
    """
    error = F.smooth_l1_loss(x0_student, x0_teacher.detach(), reduction="none").flatten(1).mean(dim=1)
    return (weight * error).mean()


def pseudo_huber(
    x0_student: Float[Tensor, "batch *latent"], target: Float[Tensor, "batch *latent"], *, delta: float
) -> Float[Tensor, ""]:
    """Mean of sqrt(error^2 + delta^2) - delta, value by value: squared below `delta`, absolute above.

    No gradient reaches the target. Song & Dhariwal 2024 take the norm of whole pictures; value by value it does
    not depend on their size.
    """
    error = x0_student - target.detach()
    return ((error.square() + delta**2).sqrt() - delta).mean()
