"""A small two-tower network that rates how well a picture fits its caption, trained on the pictures at hand.

It stands in for CLIP where no CLIP is at hand, and it is none: it knows only what the training split shows.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 64
CHANNELS = (32, 64, 128)
PATCH_PX = 4
"""Pictures enter as patches: whole pixels would take most of the time."""
NUM_GROUPS = 8


class CaptionMatch(nn.Module):
    """Vectors of pictures of any size, and of captions by the base model's pooled text embedding."""

    def __init__(self, pooled_width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS[0], PATCH_PX, stride=PATCH_PX)]
        for before, after in zip(CHANNELS, CHANNELS[1:], strict=False):
            layers += [nn.GroupNorm(NUM_GROUPS, before), nn.SiLU(), nn.Conv2d(before, after, 3, stride=2, padding=1)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(NUM_GROUPS, CHANNELS[-1]), nn.SiLU())
        self.image_head = nn.Linear(CHANNELS[-1], WIDTH)
        self.text_tower = nn.Sequential(
            nn.LayerNorm(pooled_width), nn.Linear(pooled_width, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def image_vectors(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch vector"]:
        """Of pixels in [-1, 1]; gradients pass to them."""
        vectors: Tensor = self.image_head(self.body(pixels).mean(dim=(2, 3)))
        return vectors

    def text_vectors(self, pooled: Float[Tensor, "batch pooled"]) -> Float[Tensor, "batch vector"]:
        """Of pooled text embeddings."""
        vectors: Tensor = self.text_tower(pooled)
        return vectors


def new_caption_match(pooled_width: int, *, seed: int) -> CaptionMatch:
    """Random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CaptionMatch(pooled_width)
