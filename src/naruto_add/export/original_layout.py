"""Names of weights in single files of Stable Diffusion 1.x, for pipelines in diffusers' names.

The original U-Net numbers its blocks through all levels: `input_blocks` in order of computation, `output_blocks` with
each upsampling in the block of the layer before it. A U-Net whose levels lost layers can be numbered in two ways:
- contiguous: ComfyUI counts `input_blocks` until a number is missing, and derives levels and layers from what it finds;
- gaps: the numbers of the full U-Net, which stable-diffusion.cpp uses for the U-Net of BK-SDM-Tiny.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from naruto_add.diffusion.base_model import layers_per_level

Numbering = Literal["contiguous", "gaps"]

UNET_PREFIX = "model.diffusion_model."
FULL_STRIDE = 3
"""Blocks per level of the full U-Net: two layers, and the downsampling or the third layer of an up block."""

_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_LEVEL = re.compile(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)$")
_VAE_LEVEL = re.compile(r"^(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.+)$")


def original_state(unet: Any, vae: Any, text_encoder: Any, *, numbering: Numbering = "contiguous") -> dict[str, Tensor]:
    """All weights of a pipeline of Stable Diffusion 1.x under the names of its single files.

    The input for the guidance scale that the diffusers folder has is not among them.
    """
    num_levels = len(vae.config.block_out_channels)
    state = {
        UNET_PREFIX + unet_name(name, unet.config, numbering): weight
        for name, weight in unet.state_dict().items()
        if "cond_proj" not in name
    }
    for name, weight in vae.state_dict().items():
        is_linear = ".attentions." in name and weight.ndim == 2  # the original attention has 1x1 convolutions
        state[f"first_stage_model.{vae_name(name, num_levels)}"] = weight[:, :, None, None] if is_linear else weight
    for name, weight in text_encoder.state_dict().items():
        prefix = "" if name.startswith("text_model.") else "text_model."
        state[f"cond_stage_model.transformer.{prefix}{name}"] = weight
    return state


def unet_name(name: str, config: Mapping[str, Any], numbering: Numbering) -> str:
    """The original name of a weight of the U-Net."""
    for ours, original in _UNET_TOP.items():
        if name.startswith(f"{ours}."):
            rest = name.removeprefix(f"{ours}.")
            return f"{original}.{_resnet_part(rest) if '.resnets.' in ours + '.' else rest}"
    match = _LEVEL.match(name)
    if match is None:
        raise ValueError(f"{name} is not a weight of a U-Net of Stable Diffusion 1.x")
    side, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    strides = _blocks_per_level(side, config, numbering)
    first = sum(strides[:level]) + (side == "down")  # input_blocks.0 is conv_in
    blocks = "input_blocks" if side == "down" else "output_blocks"
    match kind:
        case "resnets":
            return f"{blocks}.{first + layer}.0.{_resnet_part(rest)}"
        case "attentions":
            return f"{blocks}.{first + layer}.1.{rest}"
        case "downsamplers":
            return f"{blocks}.{first + strides[level] - 1}.0.{rest.replace('conv', 'op')}"
        case _:
            return f"{blocks}.{first + strides[level] - 1}.{_upsampling_place(level, config, numbering)}.{rest}"


def vae_name(name: str, num_levels: int) -> str:
    """The original name of a weight of the autoencoder, whose decoder counts its levels from the last one."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if ".mid_block." in name:
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        return _replaced(name, _VAE_ATTENTION) if "attn_1" in name else name
    match = _VAE_LEVEL.match(name)
    if match is None:
        return name
    coder, side, level, rest = match[1], match[2], int(match[3]), match[4]
    rest = (
        rest.replace("resnets.", "block.").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    )
    return f"{coder}.{side}.{level if side == 'down' else num_levels - 1 - level}.{rest}"


def _resnet_part(rest: str) -> str:
    return _replaced(rest, _UNET_RESNET)


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """The name with one of its dotted parts replaced."""
    for ours, original in table.items():
        if f".{ours}." in f".{name}":
            return f".{name}".replace(f".{ours}.", f".{original}.")[1:]
    return name


def _blocks_per_level(side: str, config: Mapping[str, Any], numbering: Numbering) -> list[int]:
    """How many of the numbered blocks each of diffusers' blocks of this side becomes, in order of computation."""
    layers = layers_per_level(config)
    if numbering == "gaps":
        return [FULL_STRIDE] * len(layers)
    blocks = [count + 1 for count in layers]  # a downsampling, or the up block's additional layer
    return blocks if side == "down" else blocks[::-1]


def _upsampling_place(level: int, config: Mapping[str, Any], numbering: Numbering) -> int:
    """After the resnet (0) and, if the block has one, the attention (1).

    With gaps, it is that of the full U-Net, whose first up block has no attention.
    """
    has_attention = level > 0 if numbering == "gaps" else config["up_block_types"][level].startswith("CrossAttn")
    return 1 + has_attention
