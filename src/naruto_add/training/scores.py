"""How far a student's samples are from its teacher's: scores to choose and to refuse by, not losses to train on."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from naruto_add.runtime import StageError

PATCH_SIDE = 3
NUM_PROJECTIONS = 256
SMALLEST_SIDE = 4


@torch.no_grad()
def sliced_distance(
    latents: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    """Sliced Wasserstein-1 distance between the two sets' 3x3 patches, in the reference's standard deviation.

    The mean over a pyramid of halved resolutions, each with the same fixed random directions (Rabin et al. 2011; as a
    score of generators: Karras et al. 2018, section 5). Zero only for equal patch distributions: blur, which a mean
    squared error rewards, narrows them and shows; so do drifting colours and lost variety. It needs no feature network
    and no decoding, and knows nothing of pictures. One deviation for all channels: an autoencoder may leave some of
    them unused, and their rest of noise says nothing about a picture.
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
    """KID's squared MMD, with the kernel (x y / width + 1)^3 of Binkowski et al. 2018, for samples that come in pairs.

    The U-statistic of Gretton et al. 2012, eq. 4, which compares no item with itself or with its pair: samples of the
    same noise are alike, and counting those pairs would say "less than equal". 0 for the very same sets; in fp64.
    """
    x, y = features.double(), reference.double()
    differences = _kernel(x, x) + _kernel(y, y) - _kernel(x, y) - _kernel(y, x)
    num = len(differences)
    return (differences.sum() - differences.trace()) / (num * (num - 1))


def colour_drift(
    latents: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "others channels height width"]
) -> Float[Tensor, ""]:
    """How far the mean of the channel that drifted most is from the reference's, in the standard deviation of all."""
    axes = (0, 2, 3)
    return (latents.mean(dim=axes) - reference.mean(dim=axes)).abs().max() / reference.std()


def spread(latents: Float[Tensor, "prompts seeds *latent"]) -> Float[Tensor, ""]:
    """Root mean square standard deviation between samples of the same prompt: 0 where every seed gives the same."""
    return latents.var(dim=1).mean().sqrt()


def relative_sample_error(
    x0_student: Float[Tensor, "batch *latent"],
    x0_teacher: Float[Tensor, "batch *latent"],
    *,
    constant: Float[Tensor, " *latent"],
) -> float:
    """Squared error of the student's samples over that of always answering `constant`, the mean sample."""
    error = (x0_student - x0_teacher).square().mean()
    baseline = (constant - x0_teacher).square().mean()
    return (error / baseline).item()


def check_can_sample(
    x0_student: Float[Tensor, "batch *latent"],
    x0_teacher: Float[Tensor, "batch *latent"],
    *,
    constant: Float[Tensor, " *latent"],
) -> float:
    """The relative sample error of a student that may start adversarial training.

    Raises StageError for one whose samples, from the same noise and prompts, are no closer to the teacher's than the
    mean picture is: a student that starts from nothing ends an order of magnitude worse (Sauer et al. 2023, table 1).
    """
    relative = relative_sample_error(x0_student, x0_teacher, constant=constant)
    if relative < 1:
        return relative
    raise StageError(
        f"the student cannot sample: its latents are {relative:.3g} times as far from the teacher's as the mean "
        "picture is; raise student.num_steps, lower student.learning_rate, or remove fewer blocks "
        "(student.architecture), before adversarial training"
    )


def _kernel(x: Tensor, y: Tensor) -> Float[Tensor, "x y"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _directions(dimension: int) -> Float[Tensor, "dimension projections"]:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(dimension, NUM_PROJECTIONS, generator=generator), dim=0)


def _level_distance(latents: Tensor, reference: Tensor, directions: Tensor) -> Float[Tensor, ""]:
    sorted_latents = (_patches(latents) @ directions).sort(dim=0).values
    sorted_reference = (_patches(reference) @ directions).sort(dim=0).values
    return (sorted_latents - sorted_reference).abs().mean()


def _patches(latents: Tensor) -> Float[Tensor, "patches dimension"]:
    return F.unfold(latents, PATCH_SIDE).transpose(1, 2).flatten(0, 1)
