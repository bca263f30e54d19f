"""Squares of the pictures that latents stand for, with a gradient to the latents, and a loss that compares them."""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import Backbone

DECODED_AT_ONCE = 16


def decoded_squares(
    vae: AutoencoderKL,
    latents: Float[Tensor, "batch c h w"],
    corner: Float[Tensor, "batch 2"],
    *,
    side_px: int,
) -> Float[Tensor, "batch 3 side side"]:
    """Decoded squares of scaled latents, fp32, of this side or the picture's; gradients reach the latents alone.

    Cut before decoding, so that the cost is the square's; at its edges it differs a little from a cut of the whole
    picture, for real and fake alike. Values beyond [-1, 1] are kept, as a clamp would stop their gradient.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    parts = cut_squares(latents, corner, side=max(1, side_px // factor)) / vae.config.scaling_factor
    return torch.cat([vae.decode(part.to(vae.dtype)).sample.float() for part in parts.split(DECODED_AT_ONCE)])


def cut_squares(
    maps: Float[Tensor, "batch c h w"], corner: Float[Tensor, "batch 2"], *, side: int
) -> Float[Tensor, "batch c _ _"]:
    """One window of every map, at most the whole, which `corner` in [0, 1) moves from the first place to the last."""
    sides = [min(side, extent) for extent in maps.shape[-2:]]
    places = [extent - part + 1 for extent, part in zip(maps.shape[-2:], sides, strict=True)]
    first = (corner * corner.new_tensor(places)).long()
    rows, columns = (first[:, axis, None] + torch.arange(part, device=maps.device) for axis, part in enumerate(sides))
    items = torch.arange(len(maps), device=maps.device).view(-1, 1, 1)
    return maps.permute(0, 2, 3, 1)[items, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def perceptual_loss(
    vae: AutoencoderKL,
    backbone: Backbone,
    x0_student: Float[Tensor, "batch c h w"],
    x0_teacher: Float[Tensor, "batch c h w"],
    *,
    corner: Float[Tensor, "batch 2"],
    side_px: int,
) -> Float[Tensor, ""]:
    """Mean distance of the same squares of both in the backbone's maps; no gradient reaches the teacher's side."""
    with torch.no_grad():
        target = backbone(decoded_squares(vae, x0_teacher, corner, side_px=side_px))
    return multi_depth_distance(backbone(decoded_squares(vae, x0_student, corner, side_px=side_px)), target).mean()
