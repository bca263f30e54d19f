"""A discriminator in latent space (LADD, Sauer et al. 2024): the frozen teacher sees, small heads judge.

The teacher's features say what is drawn, and how well, at every depth and noise level; only the heads are trained.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from naruto_add.runtime import StageError

NEGATIVE_SLOPE = 0.2


class UnetFeatures:
    """Outputs of a frozen U-Net's blocks; what lies behind the deepest of them is not computed.

    Gradients pass through to the latents where they require one. No activation checkpointing: with hooks it gives NaN.
    """

    def __init__(self, unet: UNet2DConditionModel, block_names: Sequence[str]) -> None:
        available = _block_names(unet)
        for name in block_names:
            if name not in available:
                raise StageError(
                    f"add.discriminator_blocks: {name!r} is not a block of the teacher's U-Net; use some of {available}"
                )
        self._unet = unet
        self._names = list(block_names)
        self._last = max(block_names, key=available.index)

    @property
    def num_channels(self) -> list[int]:
        """Channels of each block's output."""
        return [self._unet.get_submodule(name).resnets[-1].out_channels for name in self._names]

    def __call__(
        self,
        noisy_latents: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch tokens width"],
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """The blocks' outputs, fp32, in the order that they were named in."""
        captured: dict[str, Tensor] = {}
        handles = [self._capture(name, captured) for name in self._names]
        dtype = self._unet.dtype
        try:
            self._unet(noisy_latents.to(dtype), timesteps, prompt_embeds.to(dtype), return_dict=False)
        except _SeenEnough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [captured[name].float() for name in self._names]

    def _capture(self, name: str, captured: dict[str, Tensor]) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            captured[name] = output if isinstance(output, Tensor) else output[0]
            if name == self._last:
                raise _SeenEnough

        return self._unet.get_submodule(name).register_forward_hook(hook)


class LatentDiscriminator(nn.Module):
    """One trainable head per depth of frozen features."""

    def __init__(self, num_channels: Sequence[int], *, width: int, pooled_width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(channels, width, pooled_width) for channels in num_channels])

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]], pooled: Float[Tensor, "batch width"]
    ) -> list[Float[Tensor, "batch _"]]:
        """Per-patch logits of each head: high for real."""
        return [head(item, pooled) for head, item in zip(self.heads, features, strict=True)]


class Head(nn.Module):
    """Logits of patches, each with the caption's projection on what the patch shows (Miyato & Koyama 2018).

    Features are scaled to unit mean square at every position, since blocks differ in size by orders of magnitude.
    Norms over positions, as in LADD's heads, would hide a drift of colours and erase the smallest maps altogether.
    The logit has no offset of its own: of the hinge loss its gradient cancels between real and fake while all are within
    the margin, and AdamW would make steps of the rounding that is left.
    """

    def __init__(self, num_channels: int, width: int, pooled_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, width, 3, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE),
        )
        self.logit = nn.Conv2d(width, 1, 1, bias=False)
        self.project = nn.Linear(pooled_width, width)

    def forward(
        self, features: Float[Tensor, "batch c h w"], pooled: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch patches"]:
        hidden = self.body(F.normalize(features, dim=1) * features.shape[1] ** 0.5)
        direction = self.project(pooled) / hidden.shape[1] ** 0.5
        projection = torch.einsum("bchw,bc->bhw", hidden, direction)
        logits: Tensor = self.logit(hidden).squeeze(1) + projection
        return logits.flatten(1)


def pooled_embeds(
    prompt_embeds: Float[Tensor, "batch tokens width"], token_ids: Int[Tensor, "batch tokens"], *, eos_token_id: int
) -> Float[Tensor, "batch width"]:
    """CLIP's own pooling: the embedding of the first end-of-text token, which has read the whole prompt."""
    is_end = token_ids == eos_token_id
    if not is_end.any(dim=1).all():
        raise StageError(f"a prompt has no end-of-text token ({eos_token_id}); the tokenizer is not the text encoder's")
    position = is_end.int().argmax(dim=1).to(prompt_embeds.device)
    return prompt_embeds[torch.arange(len(prompt_embeds), device=prompt_embeds.device), position]


@contextmanager
def gradients_off(module: nn.Module) -> Generator[None]:
    """What the module computes meanwhile passes gradients to its inputs but none to its parameters."""
    trainable = [item for item in module.parameters() if item.requires_grad]
    for item in trainable:
        item.requires_grad_(False)
    try:
        yield
    finally:
        for item in trainable:
            item.requires_grad_(True)


class _SeenEnough(Exception):  # noqa: N818 (no error)
    """Leaves a forward pass behind the last block that is needed."""


def _block_names(unet: UNet2DConditionModel) -> list[str]:
    """In the order of computation."""
    down = [f"down_blocks.{index}" for index in range(len(unet.down_blocks))]
    mid = [] if unet.mid_block is None else ["mid_block"]
    return [*down, *mid, *(f"up_blocks.{index}" for index in range(len(unet.up_blocks)))]
