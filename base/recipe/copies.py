"""Pictures that an autoencoder has encoded and decoded, and how near they are to the originals."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from naruto_add.data.shinobi.draw import draw_shinobi
from recipe.pictures import VALIDATION_SEED, as_pixels, first_pictures


def validation_pixels(families: Sequence[str], count: int, *, seed: int, size_px: int) -> dict[str, Tensor]:
    """Pictures for a learning curve: `people` of the training families without doodles, and `shinobi`."""
    drawn = [family for family in dict.fromkeys(families) if family != "doodle"]
    people, _ = first_pictures(drawn, count, seed=seed + VALIDATION_SEED, size_px=size_px)
    return {"people": people, "shinobi": shinobi_pixels(count, size_px=size_px)}


def shinobi_pixels(count: int, *, size_px: int) -> Tensor:
    """Pixels (N, 3, size_px, size_px) in [-1, 1] of shinobi, to measure on; the pipeline draws others."""
    images = [np.asarray(draw_shinobi(index, seed=VALIDATION_SEED, size_px=size_px).image) for index in range(count)]
    return as_pixels(np.stack(images))


@torch.no_grad()
def copies(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures that are encoded to the posterior's mean and decoded, clamped to [-1, 1]."""
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in pixels.split(16)]
    return torch.cat(parts)


def mean_psnr(copied: Tensor, pixels: Tensor) -> float:
    """PSNR in dB, mean over pictures (N, 3, height, width) in [-1, 1]."""
    error = ((copied - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())
