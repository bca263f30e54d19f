"""Hinge losses and the gradient penalty, each for the logits of one discriminator head."""

import torch
from jaxtyping import Float
from torch import Tensor


def generator_hinge(fake_logits: Float[Tensor, "batch patches"]) -> Float[Tensor, ""]:
    """Mean negated logit: low if the discriminator takes the fakes for real (Sauer et al. 2023, eq. 2)."""
    return -fake_logits.mean()


def discriminator_hinge(
    real_logits: Float[Tensor, "batch patches"], fake_logits: Float[Tensor, "fake_batch patches"]
) -> Float[Tensor, ""]:
    """0 if every real logit is above 1 and every fake one below -1, else positive (Sauer et al. 2023, eq. 3)."""
    return (1 - real_logits).relu().mean() + (1 + fake_logits).relu().mean()


def r1_penalty(
    real_logits: Float[Tensor, "batch patches"], head_inputs: Float[Tensor, "batch *features"]
) -> Float[Tensor, ""]:
    """Mean over pictures of the squared norm of the gradient of the summed logits with respect to the head's inputs.

    `real_logits` must be computed from `head_inputs`, which must require a gradient; the result is differentiable.
    Mescheder et al. 2018, eq. 9, on the inputs of heads as in Sauer et al. 2023.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), head_inputs, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()
