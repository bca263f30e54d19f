"""The base model's networks without weights: from its configurations, or from Stable Diffusion 1.5's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from naruto_add.config.schema import Base
from naruto_add.diffusion.base_model import base_configs
from naruto_add.diffusion.fp32_head import keep_head_in_fp32
from naruto_add.diffusion.token_chunks import CHUNK_LENGTH
from naruto_add.estimate.fake import materialized, on_meta
from naruto_add.models.student import Architecture, student_config
from naruto_add.models.tiny_decoder import new_tiny_decoder

SD15_UNET: Mapping[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "in_channels": 4,
    "out_channels": 4,
}
SD15_VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SD15_TEXT: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 49408,
}
"""CLIP ViT-L/14's text encoder, as in Stable Diffusion 1.x."""
SD2_TEXT: Mapping[str, Any] = {
    **SD15_TEXT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
"""OpenCLIP ViT-H/14's text encoder without its last layer, as in Stable Diffusion 2.x."""


@dataclass(frozen=True)
class Shapes:
    """The configurations of U-Net, autoencoder and text encoder, and the side of the latents."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    latent_side: int
    is_assumed: bool
    """The base model's own configurations could not be read, and these are those of Stable Diffusion 1.5."""
    num_tokens: int = CHUNK_LENGTH
    """Tokens of a prompt in all chunks."""
    text: Mapping[str, Any] = field(default_factory=lambda: SD15_TEXT)

    @property
    def side_px(self) -> int:
        """Side of the pictures."""
        return self.latent_side * 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def num_channels(self) -> int:
        """Channels of the latents."""
        return int(self.unet["in_channels"])

    @property
    def text_width(self) -> int:
        """Width of the prompts' embeddings."""
        return int(self.unet["cross_attention_dim"])

    def latents(self, batch: int) -> torch.Tensor:
        """Latents of this many pictures, fp32."""
        return torch.empty(batch, self.num_channels, self.latent_side, self.latent_side)

    def prompt_embeds(self, batch: int) -> torch.Tensor:
        """Embeddings of this many prompts, fp32."""
        return torch.empty(batch, self.num_tokens, self.text_width)


def shapes_of(base: Base) -> Shapes:
    """The shapes of the base model, from its folder, the hub or its cache; if it is in none of them, SD 1.5's."""
    configs = base_configs(base.model, base.revision)
    parts = configs or {"vae": SD15_VAE, "unet": SD15_UNET, "text_encoder": SD15_TEXT}
    vae, unet = parts["vae"], parts["unet"]
    side = base.resolution_px // 2 ** (len(vae["block_out_channels"]) - 1)
    num_tokens = CHUNK_LENGTH * base.caption_chunks
    assumed = SD2_TEXT if unet["cross_attention_dim"] == SD2_TEXT["hidden_size"] else SD15_TEXT
    return Shapes(
        unet, vae, side, is_assumed=configs is None, num_tokens=num_tokens, text=parts["text_encoder"] or assumed
    )


def new_unet(shapes: Shapes, dtype: torch.dtype, architecture: Architecture = "none") -> UNet2DConditionModel:
    """A frozen U-Net on the meta device, with its last layers in fp32."""
    with on_meta():
        unet = UNet2DConditionModel.from_config(student_config(shapes.unet, architecture))
        return keep_head_in_fp32(nn.Module.to(unet, dtype)).requires_grad_(False)


def new_vae(shapes: Shapes, *, is_halved: bool = False) -> AutoencoderKL:
    """A frozen autoencoder, fp32; `is_halved`: with its decoder in half precision, as `evaluate` and `samples` do."""
    with on_meta():
        vae = _vae_on_meta(shapes)
        for part in (vae.decoder, vae.post_quant_conv):
            if is_halved and part is not None:
                part.to(torch.bfloat16)
    return materialized(vae.requires_grad_(False).eval())


def new_tiny(shapes: Shapes) -> AutoencoderTiny:
    """A trainable tiny decoder for the latents, fp32."""
    with on_meta():
        tiny = new_tiny_decoder(_vae_on_meta(shapes), seed=0)
    return materialized(tiny)


def new_text_encoder(shapes: Shapes, dtype: torch.dtype) -> nn.Module:
    """A frozen text encoder."""
    with on_meta():
        encoder = CLIPTextModel(CLIPTextConfig.from_dict(dict(shapes.text))).to(dtype)
    return materialized(encoder.requires_grad_(False).eval())


def _vae_on_meta(shapes: Shapes) -> AutoencoderKL:
    return AutoencoderKL.from_config({key: value for key, value in shapes.vae.items() if not key.startswith("_")})
