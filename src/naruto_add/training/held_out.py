"""A student's samples from noises that it was never trained on, drawn by all processes together."""

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from naruto_add.compute import step_generator
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import Sampler, sample_latents
from naruto_add.training.sharing import shared_out

AT_ONCE = 8
"""Samples that one process draws together."""
SCORING_STREAM = 1


def sample_shared(
    unet: UNet2DConditionModel,
    *,
    bundle: ModelBundle,
    noise: Float[Tensor, "batch c h w"],
    prompt_embeds: Float[Tensor, "batch tokens width"],
    sampler: Sampler,
    seed: int,
) -> Float[Tensor, "batch c h w"]:
    """x0 latents without guidance, fp32, on every process's CPU; equal for any number of processes."""
    generators = [step_generator(seed, index, SCORING_STREAM) for index in range(len(noise))]
    negative_embeds = torch.zeros_like(prompt_embeds[:1]).to(bundle.device)  # unused: guidance is built in

    def draw(first: int) -> Tensor:
        part = slice(first, first + AT_ONCE)
        return sample_latents(
            unet,
            noise=noise[part].to(bundle.device),
            prompt_embeds=prompt_embeds[part].to(bundle.device),
            negative_embeds=negative_embeds,
            sampler=sampler,
            generators=generators[part],
        ).cpu()

    return torch.cat(shared_out(range(0, len(noise), AT_ONCE), draw))
