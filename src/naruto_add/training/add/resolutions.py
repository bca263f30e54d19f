"""Training at several resolutions: the teacher's samples at further picture sizes, one of which each step is about.

Resized latents of the pool would not be the teacher's answer to their noise, so every size has samples of its own.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.compute import step_generator
from naruto_add.conventions import Resolution, sides_px
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.params import Add
from naruto_add.runtime import StageError
from naruto_add.training.add.inputs import AddData, Pairs
from naruto_add.training.pool import draw_from


def draw_further(
    bundle: ModelBundle,
    data: AddData,
    *,
    captions: list[str],
    params: Add,
    num_steps: int,
    guidance_scale: float,
    pool_cache_dir: Path,
) -> tuple[Pairs, ...]:
    """`add.resolution_pool_size` teacher samples for these prompts of `data` at each of `add.resolutions_px`.

    Kept in `pool_cache_dir` as the pool's are; to be called by all processes together. Raises StageError for a size
    that the networks cannot halve as often as they do.
    """
    shapes = [latent_shape(bundle, resolution) for resolution in params.resolutions_px]
    row_of = {prompt: row for row, prompt in enumerate(data.prompts)}
    rows = torch.tensor([row_of[caption] for caption in captions])
    pools = [
        draw_from(
            bundle,
            _noise(shape, params.resolution_pool_size, seed=params.seed),
            prompts=captions,
            num_steps=num_steps,
            timesteps=params.timesteps,
            guidance_scale=guidance_scale,
            seed=params.seed,
            cache_dir=pool_cache_dir,
        )
        for shape in shapes
    ]
    return tuple(Pairs(pool.noise, pool.states, pool.x0, rows[pool.caption_index]) for pool in pools)


def latent_shape(bundle: ModelBundle, resolution: Resolution) -> tuple[int, int, int]:
    """Channels, height and width of the latents of pictures of this size."""
    factor, levels = (2 ** (len(part.config.block_out_channels) - 1) for part in (bundle.vae, bundle.unet))
    width, height = sides_px(resolution)
    if width % (factor * levels) or height % (factor * levels):
        raise StageError(
            f"add.resolutions_px: the sides of {resolution} are not multiples of {factor * levels}, the autoencoder's "
            f"factor {factor} times the U-Net's {levels}; use such"
        )
    return bundle.unet.config.in_channels, height // factor, width // factor


def _noise(shape: tuple[int, int, int], num: int, *, seed: int) -> Float[Tensor, "num c h w"]:
    """Every shape has a stream of its own: the prompts' order is the same at all sizes."""
    return torch.stack([torch.randn(shape, generator=step_generator(seed, index, *shape)) for index in range(num)])
