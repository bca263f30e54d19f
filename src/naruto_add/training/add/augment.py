"""Differentiable augmentation (Zhao et al. 2020) by random shifts."""

import torch
from jaxtyping import Float
from torch import Tensor

NUM_SHIFT_DRAWS = 3
MAX_SHIFT = 0.125
"""The largest shift, as a fraction of the side."""


def random_shift(
    maps: Float[Tensor, "batch c h w"], draws: Float[Tensor, "batch draws"], *, probability: float
) -> Float[Tensor, "batch c h w"]:
    """Each item shifted with this probability by at most MAX_SHIFT of its sides, with its edge repeated.

    `draws`, in [0, 1), decide whether an item is shifted, how far down and how far to the right. Shifts are by whole
    pixels, so nothing is blurred. Gradients pass.
    """
    if not probability:
        return maps
    height, width = maps.shape[-2:]
    is_shifted = (draws[:, 0] < probability).float()
    rows = _source_index(height, is_shifted * _shift(draws[:, 1], height))
    columns = _source_index(width, is_shifted * _shift(draws[:, 2], width))
    items = torch.arange(len(maps), device=maps.device).view(-1, 1, 1)
    return maps.permute(0, 2, 3, 1)[items, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _shift(draws: Tensor, extent: int) -> Tensor:
    return ((2 * draws - 1) * MAX_SHIFT * extent).round()


def _source_index(extent: int, shift: Tensor) -> Tensor:
    index = torch.arange(extent, device=shift.device) - shift.long()[:, None]
    return index.clamp(0, extent - 1)
