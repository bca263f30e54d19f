"""The perceptual distance of feature maps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def multi_depth_distance(
    maps: Sequence[Float[Tensor, "batch _ _ _"]], others: Sequence[Float[Tensor, "batch _ _ _"]]
) -> Float[Tensor, " batch"]:
    """Squared distance of the unit feature vectors, in [0, 4], averaged over positions and then over maps.

    LPIPS (Zhang et al. 2018) without its learned weights of channels.
    """
    depths = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for a, b in zip(maps, others, strict=True)
    ]
    return torch.stack(depths).mean(dim=0)
