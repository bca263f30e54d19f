"""The one way to draw pixels from prompts: evaluation, sample grids and the parity check of `export` all use it."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, decode_latents, encode_prompts
from naruto_add.diffusion.placement import on_device
from naruto_add.diffusion.sampling import Sampler, sample_latents
from naruto_add.runtime.compute import step_generator

STEP_NOISE_STREAM = 8
"""Separates the noise that a scheduler adds between steps from the initial noise of the same seed and index."""


@torch.inference_mode()
def draw_pixels(
    bundle: ModelBundle,
    sampler: Sampler,
    *,
    prompt_embeds: Float[Tensor, "batch tokens width"],
    noise: Float[Tensor, "batch c h w"],
    seed: int,
    indices: Sequence[int],
) -> Float[Tensor, "batch 3 height_px width_px"]:
    """Pixels in [-1, 1], fp32.

    A picture depends on its prompt, its noise and, if the scheduler adds noise between steps, on `seed` and its index,
    but not on the rest of the batch.
    """
    is_guided = sampler.guidance_scale != 1
    negative_embeds = encode_prompts(bundle, [""]) if is_guided else prompt_embeds[:1]
    with on_device(bundle.device, bundle.unet):
        latents = sample_latents(
            bundle.unet,
            noise=noise,
            prompt_embeds=prompt_embeds,
            negative_embeds=negative_embeds,
            sampler=sampler,
            generators=step_noise_generators(seed, indices),
        )
    return decode_latents(bundle, latents)


def step_noise_generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One generator per picture, for the noise that a scheduler adds between steps."""
    return [step_generator(seed, index, STEP_NOISE_STREAM) for index in indices]
