"""A frozen U-Net as all stages use it: rounded but for its head, and marked with what it predicts."""

import sys
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.diffusion.token_chunks import CHUNK_LENGTH
from naruto_add.runtime.compute import gpu_layout

V_SCHEDULE = "v_schedule"
"""The buffer with alpha_bar of a U-Net that predicts v."""
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


class Fp32GroupNorm(nn.GroupNorm):
    """A group norm that computes in fp32 whatever its input's dtype and autocast are."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class Fp32Conv2d(nn.Conv2d):
    """A convolution that computes in fp32 whatever its input's dtype and autocast are."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        with torch.autocast(input.device.type, enabled=False):
            if not input.is_cuda or torch.compiler.is_compiling():
                return super().forward(input.float())
            # TF32, the GPU's default for fp32 convolutions, would round inputs and weights to the precision of fp16
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return super().forward(input.float())


_HEAD = {"conv_norm_out": Fp32GroupNorm, "conv_out": Fp32Conv2d}


def keep_head_in_fp32(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net, whose last two layers now have fp32 weights and compute in fp32, also under autocast.

    At t = 999 an error in epsilon is amplified 14.6 times into x0. The layers change their class and nothing else, so
    names of weights, saved files, copies and `torch.compile` are those of a plain U-Net.
    """
    for name, fp32_class in _HEAD.items():
        layer = unet.get_submodule(name)
        layer.float()
        layer.__class__ = fp32_class
    return unet


def _round_body(unet: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    for name, part in unet.named_children():
        if name not in _HEAD:
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


def convert_predictions(unet: UNet2DConditionModel, scheduler: Any) -> UNet2DConditionModel:
    """The same U-Net, of which `sampling.noise_pred` returns epsilon if this scheduler's model predicts v (SD 2.x).

    So all losses and samplers see epsilon. The U-Net itself and its files stay those of a v-predicting model: only the
    noise schedule is attached to it, as a buffer that is not saved.
    """
    if scheduler.config.prediction_type == "v_prediction":
        unet.register_buffer(V_SCHEDULE, scheduler.alphas_cumprod.float().to(unet.device), persistent=False)
    return unet
