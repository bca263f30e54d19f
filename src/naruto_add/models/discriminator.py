"""A discriminator of latents (LADD, Sauer et al. 2024): trainable heads on features of the frozen teacher.

The teacher's features describe the content and the quality of a picture at every depth and noise level, so that only
small heads have to be trained.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from naruto_add.diffusion.base_model import block_names, check_block_names
from naruto_add.runtime.errors import StageError

HEAD_WIDTH = 64
"""Channels of a head's hidden layers."""
NEGATIVE_SLOPE = 0.2
FP16_GRADIENT_SCALE = 2.0**14
"""Gradients of a mean over thousands of patches are below fp16's normal range; inside an fp16 U-Net they are scaled."""


class UnetFeatures:
    """Outputs of named blocks of a frozen U-Net; layers after the deepest of these blocks are not computed.

    Gradients reach the latents. The U-Net must not use activation checkpointing, which gives NaN in hooked modules.
    """

    def __init__(self, unet: UNet2DConditionModel, names: Sequence[str]) -> None:
        """Raises StageError if one of `names` (`add.discriminator_blocks`) is not a block of the U-Net."""
        check_block_names(unet.config, names)
        self._unet = unet
        self._names = list(names)
        self._last = max(names, key=block_names(unet.config).index)

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
        """The outputs of the blocks, fp32, in the order of `names`."""
        captured: dict[str, Tensor] = {}
        handles = [self._capture(name, captured) for name in self._names]
        dtype = self._unet.dtype
        scale = FP16_GRADIENT_SCALE if dtype == torch.float16 else 1.0
        inputs = _scale_gradient(noisy_latents.float(), 1 / scale)
        try:
            self._unet(inputs.to(dtype), timesteps, prompt_embeds.to(dtype), return_dict=False)
        except _AllCaptured:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [_scale_gradient(captured[name].float(), scale) for name in self._names]

    def _capture(self, name: str, captured: dict[str, Tensor]) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            captured[name] = output if isinstance(output, Tensor) else output[0]
            if name == self._last:
                raise _AllCaptured

        return self._unet.get_submodule(name).register_forward_hook(hook)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def _scale_gradient(values: Tensor, scale: float) -> Tensor:
    """The same values, whose gradient is multiplied by the scale."""
    if scale == 1.0:
        return values
    scaled: Tensor = _ScaledGradient.apply(values, scale)
    return scaled


class LatentDiscriminator(nn.Module):
    """One trainable head per feature map."""

    def __init__(self, num_channels: Sequence[int], *, pooled_width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(channels, pooled_width) for channels in num_channels])

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]], pooled: Float[Tensor, "batch width"]
    ) -> list[Float[Tensor, "batch _"]]:
        """Logits of each head, one per position of its feature map: high for real pictures."""
        return [head(item, pooled) for head, item in zip(self.heads, features, strict=True)]


class Head(nn.Module):
    """A logit per position of a feature map, conditioned on the caption by projection (Miyato & Koyama 2018).

    Features are scaled to unit mean square at every position, because blocks differ in scale by orders of magnitude.
    Normalization over positions, as in LADD's heads, would hide a colour drift and turn the smallest maps into zeros.
    The logit has no bias: while all logits are within the hinge loss's margin, its gradients from real and fake cancel,
    and AdamW would take full steps on what remains, which is rounding error.
    """

    def __init__(self, num_channels: int, pooled_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, HEAD_WIDTH, 3, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 3, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE),
        )
        self.logit = nn.Conv2d(HEAD_WIDTH, 1, 1, bias=False)
        self.project = nn.Linear(pooled_width, HEAD_WIDTH)

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
    """CLIP's pooling: the embedding of the first end-of-text token, which attends to the whole prompt.

    Raises StageError if a prompt has no such token.
    """
    is_end = token_ids == eos_token_id
    if not is_end.any(dim=1).all():
        raise StageError(f"a prompt has no end-of-text token ({eos_token_id}); the tokenizer is not the text encoder's")
    position = is_end.int().argmax(dim=1).to(prompt_embeds.device)
    return prompt_embeds[torch.arange(len(prompt_embeds), device=prompt_embeds.device), position]


@contextmanager
def gradients_off(module: nn.Module) -> Generator[None]:
    """Within the block, what the module computes passes gradients to its inputs but not to its parameters."""
    trainable = [item for item in module.parameters() if item.requires_grad]
    for item in trainable:
        item.requires_grad_(False)
    try:
        yield
    finally:
        for item in trainable:
            item.requires_grad_(True)


class _AllCaptured(Exception):  # noqa: N818 (not an error)
    """Ends a forward pass after the deepest of the named blocks."""
