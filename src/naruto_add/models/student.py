"""A compact student: blocks of the teacher's U-Net are removed and the rest is inherited (BK-SDM, Kim et al. 2023).

`bk_base` keeps one resnet (and attention) of a down block and two of an up block; `bk_small` also drops the mid block;
`bk_tiny` also drops the deepest level. Written for two or more levels of SD 1.x blocks: SD 1.5 has four.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from naruto_add.runtime import StageError

Architecture = Literal["bk_base", "bk_small", "bk_tiny", "none"]

_LEVEL_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(.*)$")
_LAYER = re.compile(r"^(resnets|attentions)\.(\d+)\.")


def student_config(teacher_config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """What `UNet2DConditionModel.from_config` needs to build the student; no weights are involved.

    Raises StageError for a U-Net that has nothing to remove.
    """
    config = {key: value for key, value in teacher_config.items() if not key.startswith("_")}
    if architecture == "none":
        return config
    _check_removable(config, architecture)
    config["layers_per_block"] = 1
    if architecture in ("bk_small", "bk_tiny"):
        config["mid_block_type"] = None
    if architecture == "bk_tiny":
        config |= _without_deepest_level(config)
    return config


def shrink_unet(teacher_unet: UNet2DConditionModel, architecture: Architecture) -> UNet2DConditionModel:
    """A trainable fp32 student whose every weight is a copy of one of the teacher's; no storage is shared."""
    config = student_config(teacher_unet.config, architecture)
    with torch.device("meta"):  # every weight is inherited, so none is initialised and no random number is drawn
        student: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    teacher_weights = teacher_unet.state_dict()
    inherited = {
        name: teacher_weights[inherited_name(name, teacher_unet.config, architecture)].to(torch.float32, copy=True)
        for name in student.state_dict()
    }
    student.load_state_dict(inherited, assign=True)
    return student.requires_grad_(True).train()


def inherited_name(name: str, teacher_config: Mapping[str, Any], architecture: Architecture) -> str:
    """The teacher's name for the weight that the student calls `name`.

    A down block keeps the teacher's first layer, an up block its first and last, whose input is the only one of its
    width. Without the deepest level, up block i is the teacher's up block i + 1.
    """
    block = _LEVEL_BLOCK.match(name)
    if architecture == "none" or block is None:
        return name
    side, index, rest = block[1], int(block[2]), block[3]
    if side == "up":
        rest = _LAYER.sub(lambda layer: f"{layer[1]}.{_up_layer(int(layer[2]), teacher_config)}.", rest)
        index += architecture == "bk_tiny"
    return f"{side}_blocks.{index}.{rest}"


def matching_blocks(student: UNet2DConditionModel, teacher_unet: UNet2DConditionModel) -> list[tuple[str, str]]:
    """Pairs (student's module, teacher's module) whose outputs mean the same and have one shape.

    The student's deepest block no longer downsamples if the level below it was removed: there the pair is of the
    block's last layers.
    """
    removed_levels = len(teacher_unet.down_blocks) - len(student.down_blocks)
    num_down = len(student.down_blocks) - bool(removed_levels)
    pairs = [(f"down_blocks.{index}", f"down_blocks.{index}") for index in range(num_down)]
    if removed_levels:
        pairs.append((_last_layer(student, num_down), _last_layer(teacher_unet, num_down)))
    if student.mid_block is not None:
        pairs.append(("mid_block", "mid_block"))
    num_up = len(student.up_blocks)
    return pairs + [(f"up_blocks.{index}", f"up_blocks.{index + removed_levels}") for index in range(num_up)]


@contextmanager
def recorded_outputs(module: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, every forward pass of `module` writes the named submodules' outputs into the mapping."""
    outputs: dict[str, Tensor] = {}

    def record(name: str, output: Any) -> None:
        outputs[name] = output[0] if isinstance(output, tuple) else output

    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: record(name, output)
        )
        for name in names
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def num_parameters(module: nn.Module, /) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_removable(config: Mapping[str, Any], architecture: Architecture) -> None:
    layers = config["layers_per_block"]
    if min([layers] if isinstance(layers, int) else layers) < 2:
        raise StageError(
            f"student.architecture: {architecture} removes layers, but the teacher's U-Net has "
            f"layers_per_block {layers}; use a teacher with at least 2, or none"
        )
    channels = config["block_out_channels"]
    if architecture == "bk_tiny" and (len(channels) < 3 or channels[-1] != channels[-2]):
        raise StageError(
            f"student.architecture: bk_tiny drops the deepest level, which needs three levels or more and the two "
            f"deepest equally wide; the teacher's block_out_channels are {list(channels)}; use bk_small"
        )


def _without_deepest_level(config: Mapping[str, Any]) -> dict[str, Any]:
    """Deepest is last everywhere, except in `up_block_types`, where it comes first."""
    num_levels = len(config["block_out_channels"])
    shorter = {
        key: tuple(value[:-1])
        for key, value in config.items()
        if isinstance(value, list | tuple) and len(value) == num_levels and key != "up_block_types"
    }
    return {**shorter, "up_block_types": tuple(config["up_block_types"][1:])}


def _up_layer(layer: int, teacher_config: Mapping[str, Any]) -> int:
    """An up block has one layer more than the down block of its level."""
    layers = teacher_config["layers_per_block"]
    return 0 if layer == 0 else (layers if isinstance(layers, int) else max(layers))


def _last_layer(unet: UNet2DConditionModel, index: int) -> str:
    block = unet.down_blocks[index]
    kind = "attentions" if getattr(block, "attentions", None) else "resnets"
    return f"down_blocks.{index}.{kind}.{len(block.resnets) - 1}"
