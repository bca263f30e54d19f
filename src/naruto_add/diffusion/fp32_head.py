"""The last two layers of a U-Net in fp32, whatever the precision of the others is."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


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


HEAD = {"conv_norm_out": Fp32GroupNorm, "conv_out": Fp32Conv2d}
"""The layers, and the classes that they get."""


def keep_head_in_fp32(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net, whose last two layers now have fp32 weights and compute in fp32, also under autocast.

    At t = 999 an error in epsilon is amplified 14.6 times into x0. The layers change their class and nothing else, so
    names of weights, saved files, copies and `torch.compile` are those of a plain U-Net.
    """
    for name, fp32_class in HEAD.items():
        layer = unet.get_submodule(name)
        layer.float()
        layer.__class__ = fp32_class
    return unet
