"""A discriminator of pictures (ADD, Sauer et al. 2023): a frozen network of photographs sees, small heads judge."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from naruto_add.models.discriminator import Head


class PixelDiscriminator(nn.Module):
    """One trainable head per depth of frozen features, each layer of spectral norm 1 (Miyato et al. 2018).

    The norm bounds how fast a logit can change with what is seen, so that the heads cannot saturate as quickly on a
    thousand pictures as free ones do. Its power iteration is kept in buffers: a checkpoint needs them. It goes on in
    `renew_norms` alone and not whenever the heads are called, for all that they judge in a step they should judge by
    the same weights, in however many parts.
    """

    def __init__(self, num_channels: Sequence[int], *, width: int, pooled_width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(channels, width, pooled_width) for channels in num_channels])
        self._layers = [item for item in self.heads.modules() if isinstance(item, nn.Conv2d | nn.Linear)]
        for layer in self._layers:
            spectral_norm(layer)
        self.eval()

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]], pooled: Float[Tensor, "batch width"]
    ) -> list[Float[Tensor, "batch _"]]:
        """Per-patch logits of each head: high for real."""
        return [head(item, pooled) for head, item in zip(self.heads, features, strict=True)]

    @torch.no_grad()
    def renew_norms(self) -> None:
        """One power iteration of every layer, due after each change of the weights."""
        self.train()
        for layer in self._layers:
            _ = layer.weight  # PyTorch iterates where a weight is read in training mode
        self.eval()
