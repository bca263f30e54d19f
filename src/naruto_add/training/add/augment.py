"""Differentiable augmentation of what discriminators see (Zhao et al. 2020), with a strength that can adapt.

A thousand pictures are soon learnt by heart. Moved and mirrored alike, real and fake stay as different as they are.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.params import Add

ADAPT_EVERY_STEPS = 4
NUM_DRAWS = 6


def augmented(
    maps: Float[Tensor, "batch c h w"], draws: Float[Tensor, "batch 6"], *, strength: float, params: Add
) -> Float[Tensor, "batch c h w"]:
    """Each item moved with probability `strength`, its edges repeated, with a square blanked if `augment_cutout` is not
    0; and, if allowed, mirrored with half of it.

    `draws`, in [0, 1), are all the randomness: mirror, move, down, right, the square's row and column. Whole places
    only, so nothing is blurred; gradients pass.
    """
    if not strength:
        return maps
    height, width = maps.shape[-2:]
    is_flipped = (draws[:, 0] < strength / 2) & params.augment_flip
    is_moved = (draws[:, 1] < strength).float()
    rows = _source_places(height, is_moved * _shift(draws[:, 2], height, params.augment_max_shift))
    columns = _source_places(width, is_moved * _shift(draws[:, 3], width, params.augment_max_shift))
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    items = torch.arange(len(maps), device=maps.device).view(-1, 1, 1)
    moved = maps.permute(0, 2, 3, 1)[items, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    side = params.augment_cutout
    is_cut = _within(height, draws[:, 4], side)[:, :, None] & _within(width, draws[:, 5], side)[:, None, :]
    return moved.masked_fill((is_cut & (is_moved > 0).view(-1, 1, 1))[:, None], 0.0)


class AugmentStrength:
    """How often is augmented: never, as often as a parameter says, or as the discriminator's memory requires.

    Karras et al. 2020 raise it while the mean sign of logits on *training* reals is above 0.6, which also happens to a
    discriminator that is merely right. Here held-out reals tell the two apart: it rises while training reals are above
    the target and held-out ones are not, which is learning by heart, and falls otherwise.
    """

    def __init__(self, params: Add) -> None:
        self.params = params
        self.value = 0.0 if params.augment == "off" else params.augment_strength
        self.seen_sign, self.unseen_sign = 0.0, 0.0

    def is_due(self, step: int) -> bool:
        """Whether the discriminator is to be asked about held-out pictures after this step."""
        return self.params.augment == "adaptive" and step % ADAPT_EVERY_STEPS == 0

    def adapt(self, *, seen: float, unseen: float) -> None:
        """Move by the mean signs of what the discriminator says of reals that it was trained on, and of others."""
        self.seen_sign, self.unseen_sign = seen, unseen
        target = self.params.augment_target
        is_memory = self.seen_sign > target > self.unseen_sign
        change = ADAPT_EVERY_STEPS / self.params.augment_adapt_steps
        self.value = min(1.0, max(0.0, self.value + (change if is_memory else -change)))

    def scalars(self) -> dict[str, float]:
        """For the curves; nothing where the strength does not change."""
        if self.params.augment != "adaptive":
            return {}
        return {"augment_strength": self.value, "seen_sign": self.seen_sign, "unseen_sign": self.unseen_sign}

    def state_dict(self) -> dict[str, Any]:
        """The strength and the signs."""
        return {"value": self.value, "seen_sign": self.seen_sign, "unseen_sign": self.unseen_sign}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore them."""
        self.value, self.seen_sign = state_dict["value"], state_dict["seen_sign"]
        self.unseen_sign = state_dict["unseen_sign"]


def mean_sign(logits: list[Tensor]) -> Float[Tensor, ""]:
    """Over patches, then over heads."""
    return torch.stack([item.detach().float().sign().mean() for item in logits]).mean()


def _shift(draws: Tensor, extent: int, max_shift: float) -> Tensor:
    return ((2 * draws - 1) * max_shift * extent).round()


def _within(extent: int, draws: Tensor, side: float) -> Tensor:
    """Which places lie in a window of this share of the extent, somewhere in it."""
    length = round(side * extent)
    first = (draws * (extent - length + 1)).long()[:, None]
    places = torch.arange(extent, device=draws.device)
    return (places >= first) & (places < first + length)


def _source_places(extent: int, shift: Tensor) -> Tensor:
    places = torch.arange(extent, device=shift.device) - shift.long()[:, None]
    return places.clamp(0, extent - 1)
