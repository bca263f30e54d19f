"""Hinge losses and the gradient penalty, each on the per-patch logits of one discriminator head."""

import torch
from jaxtyping import Float
from torch import Tensor


def generator_hinge(fake_logits: Float[Tensor, "batch patches"]) -> Float[Tensor, ""]:
    """Mean negated logit: low when the discriminator is fooled (Sauer et al. 2023, eq. 2)."""
    return -fake_logits.mean()


def discriminator_hinge(
    real_logits: Float[Tensor, "batch patches"], fake_logits: Float[Tensor, "fake_batch patches"]
) -> Float[Tensor, ""]:
    """Zero once every real logit is above 1 and every fake one below -1 (Sauer et al. 2023, eq. 3)."""
    return (1 - real_logits).relu().mean() + (1 + fake_logits).relu().mean()


def misaligned_hinge(misaligned_logits: Float[Tensor, "batch patches"]) -> Float[Tensor, ""]:
    """Zero once the logits of every real picture under another one's caption are below -1, like those of fakes."""
    return (1 + misaligned_logits).relu().mean()


def r1_penalty(
    real_logits: Float[Tensor, "batch patches"], head_inputs: Float[Tensor, "batch *features"]
) -> Float[Tensor, ""]:
    """Mean squared norm of the gradient of a picture's summed logits with respect to what its head was given.

    `real_logits` must have been computed from `head_inputs`, which must require a gradient; the result can be
    differentiated again. Mescheder et al. 2018, eq. 9, on head inputs as in Sauer et al. 2023.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), head_inputs, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()
