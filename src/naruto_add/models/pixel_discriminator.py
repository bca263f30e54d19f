"""A discriminator of pictures (ADD, Sauer et al. 2023): trainable heads on features of a frozen feature network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from naruto_add.models.discriminator import Head


class PixelDiscriminator(nn.Module):
    """One trainable head per feature map, with spectral norm 1 in each layer (Miyato et al. 2018).

    The norm limits how fast a logit can change with the features, so that the heads do not overfit a thousand pictures
    as quickly as unconstrained ones. Its power iteration is stored in buffers, which a checkpoint has to contain. The
    iteration advances only in `update_spectral_norms`, not in each call, so that all parts of a batch are computed with
    the same weights.
    """

    def __init__(self, num_channels: Sequence[int], *, pooled_width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(channels, pooled_width) for channels in num_channels])
        self._layers = [item for item in self.heads.modules() if isinstance(item, nn.Conv2d | nn.Linear)]
        for layer in self._layers:
            spectral_norm(layer)
        self.eval()

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]], pooled: Float[Tensor, "batch width"]
    ) -> list[Float[Tensor, "batch _"]]:
        """Logits of each head, one per position of its feature map: high for real pictures."""
        return [head(item, pooled) for head, item in zip(self.heads, features, strict=True)]

    @torch.no_grad()
    def update_spectral_norms(self) -> None:
        """Do one power iteration in every layer; call it after each update of the weights."""
        self.train()
        for layer in self._layers:
            _ = layer.weight  # reading a weight in training mode does one iteration
        self.eval()
