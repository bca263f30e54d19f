"""Decoded crops of latents, with a gradient to the latents."""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

BATCH_SIZE = 16
"""Crops decoded at once."""


def decode_crops(
    vae: AutoencoderKL,
    latents: Float[Tensor, "batch c h w"],
    corner: Float[Tensor, "batch 2"],
    *,
    side_px: int,
) -> Float[Tensor, "batch 3 height width"]:
    """Pixels, fp32, of one crop of each item, with sides of `side_px` or the picture's, whichever is smaller.

    The latents are cropped before decoding, which costs less. At its edges, the result differs slightly from a crop of
    the decoded picture, for real and generated latents alike. Pixels are not clamped to [-1, 1]: a clamp would stop
    gradients.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    parts = crop_latents(latents, corner, side=max(1, side_px // factor)) / vae.config.scaling_factor
    return torch.cat([vae.decode(part.to(vae.dtype)).sample.float() for part in parts.split(BATCH_SIZE)])


def crop_latents(
    latents: Float[Tensor, "batch c h w"], corner: Float[Tensor, "batch 2"], *, side: int
) -> Float[Tensor, "batch c height width"]:
    """One crop of each item, with sides of `side` or the item's, whichever is smaller.

    `corner`, in [0, 1), is the position of the crop among all possible ones, first down, then right.
    """
    sides = [min(side, extent) for extent in latents.shape[-2:]]
    positions = [extent - part + 1 for extent, part in zip(latents.shape[-2:], sides, strict=True)]
    first = (corner * corner.new_tensor(positions)).long()
    rows, columns = (
        first[:, axis, None] + torch.arange(part, device=latents.device) for axis, part in enumerate(sides)
    )
    items = torch.arange(len(latents), device=latents.device).view(-1, 1, 1)
    return latents.permute(0, 2, 3, 1)[items, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
