"""A student's samples from the noise of held-out pool samples, drawn by all processes together."""

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import Sampler, sample_latents
from naruto_add.runtime.compute import step_generator
from naruto_add.runtime.sharing import compute_across_processes

BATCH = 8
"""Samples that a process draws together."""
SCORING_STREAM = 1
NUM_PICTURES = 4
"""Samples that a tool of `tracking` shows."""


def sample_across_processes(
    unet: UNet2DConditionModel,
    *,
    bundle: ModelBundle,
    noise: Float[Tensor, "batch c h w"],
    prompt_embeds: Float[Tensor, "batch tokens width"],
    sampler: Sampler,
    seed: int,
) -> Float[Tensor, "batch c h w"]:
    """The x0 latents, fp32, on the CPU of every process; the same for any number of processes.

    The sampler must have guidance scale 1.0. Sample i of samplers that add noise depends only on (seed, i).
    """
    generators = [step_generator(seed, index, SCORING_STREAM) for index in range(len(noise))]
    unused = torch.zeros_like(prompt_embeds[:1]).to(bundle.device)

    def draw(first: int) -> Tensor:
        part = slice(first, first + BATCH)
        return sample_latents(
            unet,
            noise=noise[part].to(bundle.device),
            prompt_embeds=prompt_embeds[part].to(bundle.device),
            negative_embeds=unused,
            sampler=sampler,
            generators=generators[part],
        ).cpu()

    return torch.cat(compute_across_processes(range(0, len(noise), BATCH), draw))
