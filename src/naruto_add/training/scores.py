"""Distances of a student's samples to its teacher's: scores that choose a checkpoint or stop a stage, not losses."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from naruto_add.losses.kernel import polynomial_kernel
from naruto_add.runtime.errors import StageError

PATCH_SIDE = 3
NUM_PROJECTIONS = 256
SMALLEST_SIDE = 4
"""Latents are not halved below this side."""


@torch.no_grad()
def sliced_distance(
    latents: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    """Sliced Wasserstein-1 distance between the 3x3 patches of two sets, in units of the reference's deviation.

    It is the mean over a pyramid of halved resolutions, with the same fixed random directions for each (Rabin et al.
    2011; as a score of generators: Karras et al. 2018, section 5). It is 0 only for equal patch distributions, so it
    rises with blur, which a mean squared error rewards, and with colour drift and lost diversity. It needs neither a
    feature network nor decoding. The standard deviation is that of all channels together: an autoencoder may leave
    channels unused, and their residual noise does not matter for the picture.
    """
    scale = reference.std()
    levels = [(latents / scale, reference / scale)]
    while min(levels[-1][0].shape[-2:]) >= 2 * SMALLEST_SIDE:
        levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
    directions = _directions(latents.shape[1] * PATCH_SIDE**2).to(latents)
    return torch.stack([_level_distance(one, other, directions) for one, other in levels]).mean()


@torch.no_grad()
def paired_kernel_distance(
    features: Float[Tensor, "pairs width"], reference: Float[Tensor, "pairs width"]
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy with KID's kernel (Binkowski et al. 2018), for paired samples; fp64.

    It is the U-statistic of Gretton et al. 2012, eq. 4, which compares no sample with itself or with its partner.
    Samples from the same noise are similar, so counting these pairs would bias the distance below 0. It is 0 for
    identical sets.
    """
    x, y = features.double(), reference.double()
    differences = polynomial_kernel(x, x) + polynomial_kernel(y, y) - polynomial_kernel(x, y) - polynomial_kernel(y, x)
    num = len(differences)
    return (differences.sum() - differences.trace()) / (num * (num - 1))


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


def _directions(dimension: int) -> Float[Tensor, "dimension projections"]:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(dimension, NUM_PROJECTIONS, generator=generator), dim=0)


def _level_distance(latents: Tensor, reference: Tensor, directions: Tensor) -> Float[Tensor, ""]:
    sorted_latents = (_patches(latents) @ directions).sort(dim=0).values
    sorted_reference = (_patches(reference) @ directions).sort(dim=0).values
    return (sorted_latents - sorted_reference).abs().mean()


def _patches(latents: Tensor) -> Float[Tensor, "patches dimension"]:
    return F.unfold(latents, PATCH_SIDE).transpose(1, 2).flatten(0, 1)
