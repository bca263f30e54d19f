"""An fp16 decoder that does not overflow: its residual stream is scaled down, and its pictures stay the same.

Every layer that reads the stream normalizes it first, so a factor on all that is written to the stream cancels out. (It
does not cancel in the epsilon of the norms, which is far below the variance of the stream.)
"""

import torch
from diffusers import AutoencoderKL
from torch import nn

STREAM_SCALE = 1 / 16
"""Activations of SD's decoders reach about 10^4, and fp16's largest value is 6.5 * 10^4."""


@torch.no_grad()
def halve_decoder(vae: AutoencoderKL) -> None:
    """Scale the decoder's residual stream down and store the decoder in fp16; the encoder stays as it is."""
    decoder = vae.decoder
    _scale(decoder.conv_in, STREAM_SCALE)
    for block in (decoder.mid_block, *decoder.up_blocks):
        for resnet in block.resnets:
            _scale(resnet.conv2, STREAM_SCALE)
            if resnet.conv_shortcut is not None:  # it reads the stream without a norm
                _scale_bias(resnet.conv_shortcut, STREAM_SCALE)
        for upsampler in getattr(block, "upsamplers", None) or []:
            _scale_bias(upsampler.conv, STREAM_SCALE)
    for attention in decoder.mid_block.attentions or []:
        if attention is not None:
            _scale(attention.to_out[0], STREAM_SCALE)
    decoder.half()
    if vae.post_quant_conv is not None:
        vae.post_quant_conv.half()


def decoder_dtype(vae: AutoencoderKL) -> torch.dtype:
    """The dtype of the latents that the decoder takes, which may differ from the encoder's."""
    dtype: torch.dtype = vae.decoder.conv_in.weight.dtype
    return dtype


def _scale(layer: nn.Conv2d | nn.Linear, factor: float) -> None:
    layer.weight.mul_(factor)
    _scale_bias(layer, factor)


def _scale_bias(layer: nn.Conv2d | nn.Linear, factor: float) -> None:
    if layer.bias is not None:
        layer.bias.mul_(factor)
