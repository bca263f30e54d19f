"""A small two-tower network that rates how well a picture fits its caption, trained on the data set by `add`.

It takes CLIP's place where no CLIP model is available. It generalizes far less: it knows only the training split.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 64
"""Length of the vectors of both towers."""
CHANNELS = (32, 64, 128)
PATCH_PX = 4
"""Side of the patches that the first layer reads; reading single pixels would take most of the time."""
NUM_GROUPS = 8


class CaptionMatch(nn.Module):
    """An image tower for pictures of any size, and a text tower for the base model's pooled text embeddings."""

    def __init__(self, pooled_width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS[0], PATCH_PX, stride=PATCH_PX)]
        for before, after in pairwise(CHANNELS):
            layers += [nn.GroupNorm(NUM_GROUPS, before), nn.SiLU(), nn.Conv2d(before, after, 3, stride=2, padding=1)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(NUM_GROUPS, CHANNELS[-1]), nn.SiLU())
        self.image_head = nn.Linear(CHANNELS[-1], WIDTH)
        self.text_tower = nn.Sequential(
            nn.LayerNorm(pooled_width), nn.Linear(pooled_width, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def image_vectors(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch vector"]:
        """Vectors, not normalized, of pixels in [-1, 1]; gradients reach the pixels."""
        vectors: Tensor = self.image_head(self.body(pixels).mean(dim=(2, 3)))
        return vectors

    def text_vectors(self, pooled: Float[Tensor, "batch pooled"]) -> Float[Tensor, "batch vector"]:
        """Vectors, not normalized, of pooled text embeddings."""
        vectors: Tensor = self.text_tower(pooled)
        return vectors


def new_caption_match(pooled_width: int, *, seed: int) -> CaptionMatch:
    """An untrained network; its weights depend only on the arguments, and the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CaptionMatch(pooled_width)
