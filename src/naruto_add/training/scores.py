"""Scores of a student's samples: they choose weights, cause alarms or stop a stage, and are not losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.runtime.errors import StageError


@torch.no_grad()
def prompt_match(
    features: Float[Tensor, "pairs width"],
    reference: Float[Tensor, "pairs width"],
    prompts: Int[Tensor, " pairs"],
) -> float:
    """How often a sample is nearer to the teacher's sample of its prompt and noise than to one of another prompt.

    The mean over samples and over all reference samples of other prompts, in [0, 1]: 1 if every prompt is followed as
    the teacher follows it, .5 if pictures do not depend on prompt and noise. 1 if there is only one prompt.
    """
    distances = torch.cdist(features.double(), reference.double())
    is_other = prompts[:, None] != prompts
    if not is_other.any():
        return 1.0
    return (distances.diagonal()[:, None] < distances)[is_other].double().mean().item()


def colour_drift(
    latents: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "others channels height width"]
) -> Float[Tensor, ""]:
    """The largest difference of a channel's mean to the reference's, in units of the reference's standard deviation."""
    axes = (0, 2, 3)
    return (latents.mean(dim=axes) - reference.mean(dim=axes)).abs().max() / reference.std()


def spread(latents: Float[Tensor, "prompts seeds *latent"]) -> Float[Tensor, ""]:
    """Root mean square of the standard deviation between samples of the same prompt; 0 if the seed has no effect."""
    return latents.var(dim=1).mean().sqrt()


def relative_sample_error(
    x0_student: Float[Tensor, "batch *latent"],
    x0_teacher: Float[Tensor, "batch *latent"],
    *,
    constant: Float[Tensor, " *latent"],
) -> float:
    """Mean squared error of the student's samples divided by that of `constant`, the mean sample."""
    error = (x0_student - x0_teacher).square().mean()
    baseline = (constant - x0_teacher).square().mean()
    return (error / baseline).item()


def check_can_sample(
    x0_student: Float[Tensor, "batch *latent"],
    x0_teacher: Float[Tensor, "batch *latent"],
    *,
    constant: Float[Tensor, " *latent"],
) -> float:
    """The relative sample error of the student.

    Raises StageError if it is 1 or more: the student's samples are then no closer to the teacher's from the same noise
    and prompts than the mean sample is. Adversarial training from a random student ends with an FID that is an order of
    magnitude higher (Sauer et al. 2023, table 1).
    """
    relative = relative_sample_error(x0_student, x0_teacher, constant=constant)
    if relative < 1:
        return relative
    raise StageError(
        f"the student cannot sample: the squared error of its samples is {relative:.3g} times that of the mean sample; "
        "raise student.num_steps, lower student.optimizer.learning_rate, or remove fewer blocks (student.architecture)"
    )
