"""The balance of the adversarial and the distillation loss, whose gradients differ in size between data sets."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

DECAY = 0.95
"""Per step, of the averages of the squared norms: a single step's norm varies by a factor of about two."""


class GradientBalance:
    """The ratio of the norms of both losses' gradients with respect to the student's x0, averaged over steps.

    With a fixed factor, the adversarial loss dominates where the student already matches its teacher, because the
    distillation loss then has small gradients. Esser et al. 2021 (VQGAN, eq. 7) divide the two norms at the last layer,
    in every step; at x0 the norms need no further backward pass. The squared norms are averaged over the parts of a
    batch and over processes, so the ratio does not depend on how a batch is divided.
    """

    def __init__(self) -> None:
        self._distill = self._adversarial = 0.0

    @property
    def scale(self) -> float:
        """The factor that makes the adversarial gradient as large as the distillation's; 0 before the first `note`."""
        return math.sqrt(self._distill / self._adversarial) if self._adversarial else 0.0

    def note(self, *, distill: float, adversarial: float) -> None:
        """Take the squared norms of one step into account, unless one is not finite or the adversarial one is 0."""
        if not (math.isfinite(distill) and math.isfinite(adversarial) and adversarial):
            return
        kept = DECAY if self._adversarial else 0.0
        self._distill = kept * self._distill + (1 - kept) * distill
        self._adversarial = kept * self._adversarial + (1 - kept) * adversarial

    def state_dict(self) -> dict[str, float]:
        """Both averages."""
        return {"distill": self._distill, "adversarial": self._adversarial}

    def load_state_dict(self, state_dict: dict[str, float], /) -> None:
        """Restore both averages."""
        self._distill, self._adversarial = state_dict["distill"], state_dict["adversarial"]


def gradient(loss: Float[Tensor, ""], x0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
    """The gradient with respect to x0; 0 if the loss does not depend on it. The loss's graph is freed."""
    if not loss.requires_grad:
        return torch.zeros_like(x0)
    (result,) = torch.autograd.grad(loss, x0)
    return result
