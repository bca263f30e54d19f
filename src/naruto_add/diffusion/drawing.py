"""Pictures as everybody draws them: evaluation, grids and the export's check see the same ones."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.compute import step_generator
from naruto_add.diffusion.bundle import ModelBundle, decode_latents, encode_prompts
from naruto_add.diffusion.sampling import Sampler, sample_latents

RENOISE_STREAM = 8
"""Keeps the noise that is added between steps apart from starting noise."""


@torch.inference_mode()
def draw_pixels(
    bundle: ModelBundle,
    sampler: Sampler,
    *,
    prompt_embeds: Float[Tensor, "batch tokens width"],
    noise: Float[Tensor, "batch c h w"],
    seed: int,
    places: Sequence[int],
) -> Float[Tensor, "batch 3 height_px width_px"]:
    """Pixels in [-1, 1], fp32. A picture depends on its prompt and noise, and on (`seed`, its place) where the sampler
    re-noises, but not on those beside it in the batch.
    """
    is_guided = sampler.guidance_scale != 1
    latents = sample_latents(
        bundle.unet,
        noise=noise,
        prompt_embeds=prompt_embeds,
        negative_embeds=encode_prompts(bundle, [""]) if is_guided else prompt_embeds[:1],
        sampler=sampler,
        generators=renoise_generators(seed, places),
    )
    return decode_latents(bundle, latents)


def renoise_generators(seed: int, places: Iterable[int]) -> list[torch.Generator]:
    """For each picture what its noise between steps is drawn from."""
    return [step_generator(seed, place, RENOISE_STREAM) for place in places]
