"""Scores of a student's samples: they choose weights, cause alarms or stop a stage, and are not losses."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.losses.kernel import polynomial_kernel
from naruto_add.runtime.errors import StageError

NUM_ERRORS = 2.0
"""Standard errors by which two distances must differ to count as different."""


@dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy, with what every sample and every reference picture contributes to it.

    `of_samples` and `of_pictures`, fp64, are the first-order terms of the U-statistic (Hoeffding 1948). Their spread
    gives the error of the distance, and the spread of the differences of two sets' terms the error of the difference.
    """

    value: float
    of_samples: Float[Tensor, " samples"]
    of_pictures: Float[Tensor, " pictures"]

    @property
    def error(self) -> float:
        """Standard error over samples and pictures."""
        return _standard_error(self.of_samples, self.of_pictures)

    def exceeds(self, other: "KernelDistance") -> bool:
        """Whether it is larger than that of samples of the same noise and prompts, by more than NUM_ERRORS errors.

        Samples of the same noise vary together, so the difference is known better than either distance. A distance
        that is not a number exceeds all others.
        """
        error = _standard_error(self.of_samples - other.of_samples, self.of_pictures - other.of_pictures)
        return not self.value - other.value <= NUM_ERRORS * error


@torch.no_grad()
def kernel_distance_with_error(
    features: Float[Tensor, "samples width"], reference: Float[Tensor, "pictures width"]
) -> KernelDistance:
    """Squared maximum mean discrepancy with KID's kernel (Binkowski et al. 2018), unbiased; fp64.

    It is the U-statistic of Gretton et al. 2012, eq. 3, which compares no sample with itself, so it is below 0 for
    about half of the sets from the reference's own distribution. Requires two samples and two pictures.
    """
    x, y = features.double(), reference.double()
    to_samples, to_pictures = _mean_of_others(polynomial_kernel(x, x)), _mean_of_others(polynomial_kernel(y, y))
    across = polynomial_kernel(x, y)
    value = to_samples.mean() + to_pictures.mean() - 2 * across.mean()
    return KernelDistance(
        value.item(),
        of_samples=2 * (to_samples - across.mean(dim=1)),
        of_pictures=2 * (to_pictures - across.mean(dim=0)),
    )


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


def _mean_of_others(kernel: Float[Tensor, "items items"]) -> Float[Tensor, " items"]:
    """The mean of each row without the item's value for itself."""
    return (kernel.sum(dim=1) - kernel.diagonal()) / (len(kernel) - 1)


def _standard_error(*terms: Tensor) -> float:
    """Standard error of the sum of the means of independent terms."""
    return sum((each.var() / len(each)).item() for each in terms) ** 0.5
