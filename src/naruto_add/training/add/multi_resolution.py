"""Multi-scale training: teacher samples of other picture sizes; each training step uses one size.

Every size has its own samples: a resized x0 is not the teacher's sample of a resized noise.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.config.constants import Resolution
from naruto_add.config.schema import Add
from naruto_add.diffusion.base_model import latent_size
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.runtime.compute import step_generator
from naruto_add.training.add.dataset import AddData, Pairs, pairs_of
from naruto_add.training.pool import draw_from
from naruto_add.training.settings import DistillationSettings


def sample_other_sizes(
    bundle: ModelBundle,
    data: AddData,
    *,
    prompts: list[str],
    params: Add,
    settings: DistillationSettings,
    pool_cache_dir: Path,
) -> tuple[Pairs, ...]:
    """`add.resolution_pool_size` teacher samples of these prompts of `data` for each of `add.resolutions_px`.

    All processes must call this together. Samples are cached in `pool_cache_dir`, like those of the pool. Raises
    StageError for a size that the networks cannot process.
    """
    shapes = [latent_shape(bundle, resolution) for resolution in params.resolutions_px]
    row_of = {prompt: row for row, prompt in enumerate(data.prompts)}
    pools = [
        draw_from(
            bundle,
            _noise(shape, params.resolution_pool_size, seed=params.seed),
            prompts=prompts,
            num_steps=settings.pool_steps,
            timesteps=settings.student_timesteps,
            guidance_scale=settings.guidance_scale,
            seed=params.seed,
            cache_dir=pool_cache_dir,
        )
        for shape in shapes
    ]
    return tuple(pairs_of(pool, row_of) for pool in pools)


def latent_shape(bundle: ModelBundle, resolution: Resolution) -> tuple[int, int, int]:
    """Channels, height and width of the latents of pictures of this size. Raises StageError for an impossible size."""
    height, width = latent_size(bundle.vae.config, bundle.unet.config, resolution, key="add.resolutions_px")
    return bundle.unet.config.in_channels, height, width


def _noise(shape: tuple[int, int, int], num: int, *, seed: int) -> Float[Tensor, "num c h w"]:
    """Initial noise; the shape is part of the seed, so that sizes do not share noise."""
    return torch.stack([torch.randn(shape, generator=step_generator(seed, index, *shape)) for index in range(num)])
