"""How different two sets of feature maps are, pair by pair."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def multi_depth_distance(
    maps: Sequence[Float[Tensor, "batch _ _ _"]], others: Sequence[Float[Tensor, "batch _ _ _"]]
) -> Float[Tensor, " batch"]:
    """Squared difference of unit vectors (in [0, 4]), averaged over places, then over depths: LPIPS without heads."""
    depths = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for a, b in zip(maps, others, strict=True)
    ]
    return torch.stack(depths).mean(dim=0)
