"""Which networks are on the GPU, and how many pictures fit at once.

Networks that are not in use are kept in CPU memory.

On a CPU nothing moves, and batches have one fixed size, so that results do not depend on the machine's memory.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL
from torch import nn

from naruto_add.diffusion.base_model import downsampling
from naruto_add.runtime.compute import free_memory

VAE_BATCH = 16
"""Pictures that an autoencoder encodes or decodes at once: on a CPU always, on a GPU at most."""
LIVE_MAPS = 4
"""Feature maps of the widest full-resolution layer that an autoencoder needs at once: 3 when it decodes SD 1.5's
latents, 2.5 when it encodes pictures (computed by `naruto_add.estimate`), and one for the convolutions' workspace."""
TILE_PX = 256
"""Side of the tiles of a picture that does not fit as a whole."""


def move_to_cpu(*modules: nn.Module) -> None:
    """Move these modules to CPU memory."""
    for module in modules:
        if _device(module).type != "cpu":
            module.to("cpu")


@contextmanager
def on_device(device: torch.device, *modules: nn.Module) -> Generator[None]:
    """Within the block the modules are on `device`; afterwards each is where it was before."""
    moved = [(module, _device(module)) for module in modules if _device(module).type != device.type]
    for module, _ in moved:
        module.to(device)
    try:
        yield
    finally:
        for module, origin in moved:
            module.to(origin)


@contextmanager
def vae_on_device(vae: AutoencoderKL, device: torch.device, *, num_pixels: int) -> Generator[int]:
    """Within the block the autoencoder is on `device`. Yields how many pictures of `num_pixels` it takes at once.

    If not even one fits into the free memory, the autoencoder processes overlapping tiles within the block. That
    changes a picture slightly where tiles meet.
    """
    with on_device(device, vae):
        number = pictures_at_once(vae, num_pixels=num_pixels, free_bytes=free_memory(device))
        if number:
            yield number
            return
        with in_tiles(vae):
            yield 1


@contextmanager
def in_tiles(vae: AutoencoderKL) -> Generator[None]:
    """Within the block the autoencoder processes overlapping tiles of pictures that are larger than one."""
    tiles = vae.tile_sample_min_size, vae.tile_latent_min_size, vae.use_tiling
    side = TILE_PX // downsampling(vae.config)
    vae.tile_sample_min_size, vae.tile_latent_min_size, vae.use_tiling = TILE_PX, side, True
    try:
        yield
    finally:
        vae.tile_sample_min_size, vae.tile_latent_min_size, vae.use_tiling = tiles


def pictures_at_once(vae: AutoencoderKL, *, num_pixels: int, free_bytes: int | None) -> int:
    """How many pictures fit into `free_bytes`, at most `VAE_BATCH`; None stands for memory that is not a GPU's."""
    if free_bytes is None:
        return VAE_BATCH
    return min(VAE_BATCH, free_bytes // picture_bytes(vae, num_pixels=num_pixels))


def picture_bytes(vae: AutoencoderKL, *, num_pixels: int) -> int:
    """The memory that encoding or decoding one picture needs in addition to the weights."""
    widest = max(
        vae.config.block_out_channels[:2]
    )  # the decoder's last upsampling has the width of the level before it
    return int(LIVE_MAPS * widest * num_pixels * vae.dtype.itemsize)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
