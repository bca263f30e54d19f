"""Frozen U-Nets in half precision: their head is not rounded, and fp16 is used only if all predictions are finite."""

import sys

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.diffusion.fp32_head import HEAD, keep_head_in_fp32
from naruto_add.diffusion.token_chunks import CHUNK_LENGTH
from naruto_add.runtime.compute import gpu_layout

_PROBE_TIMESTEPS = (0, NUM_TRAIN_TIMESTEPS // 2, NUM_TRAIN_TIMESTEPS - 1)


def frozen_unet(unet: UNet2DConditionModel, dtype: torch.dtype, device: torch.device) -> UNet2DConditionModel:
    """The same U-Net, frozen, with weights of this dtype except those of its head, which are not rounded.

    In fp16, networks with large activations give infinities. Then the U-Net gets bf16, and a message says so.
    """
    if dtype == torch.float16 and largest_weight(unet) > torch.finfo(dtype).max:
        dtype = bf16_instead("U-Net")
    rounded = gpu_layout(_round_body(unet, dtype).to(device)).requires_grad_(False).eval()
    if dtype == torch.float16 and not _is_finite(rounded):
        return _round_body(rounded, bf16_instead("U-Net"))
    return rounded


def _round_body(unet: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    for name, part in unet.named_children():
        if name not in HEAD:
            part.to(dtype)
    return keep_head_in_fp32(unet)


@torch.no_grad()
def _is_finite(unet: UNet2DConditionModel) -> bool:
    """Whether the U-Net predicts finite values for noise at low, middle and high timesteps."""
    generator = torch.Generator().manual_seed(0)
    config, dtype = unet.config, unet.dtype
    noise = torch.randn(1, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    embeds = torch.randn(1, CHUNK_LENGTH, config.cross_attention_dim, generator=generator).to(unet.device, dtype)
    predictions = [
        unet(noise.to(unet.device, dtype), timestep, embeds, return_dict=False)[0] for timestep in _PROBE_TIMESTEPS
    ]
    return all(bool(prediction.isfinite().all()) for prediction in predictions)


def largest_weight(module: nn.Module) -> float:
    """The largest absolute value of all weights."""
    return max(weight.abs().max().item() for weight in module.parameters())


def bf16_instead(network: str) -> torch.dtype:
    """bf16, after a message that this network cannot be in fp16."""
    sys.stderr.write(f"base.frozen_precision: fp16 overflows in the {network}; bf16 is used for it instead\n")
    return torch.bfloat16
