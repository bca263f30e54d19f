"""A compact student: some blocks of the teacher's U-Net, with the teacher's weights (BK-SDM, Kim et al. 2023).

`bk_base` keeps one resnet (and attention) of each down block and two of each up block. `bk_small` also removes the mid
block, and `bk_tiny` also the deepest level. `shallow`, which is this project's own, also removes the mid block and the
deepest level. Of the level that is then the deepest it keeps what `bk_tiny` keeps: one layer of the down block and two
of the up block. The outer levels stay whole. For U-Nets of SD 1.x blocks with at least two levels, or three for
`bk_tiny` and `shallow`; SD 1.5 has four.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from naruto_add.diffusion.base_model import check_removable, layers_per_level
from naruto_add.diffusion.fp32_head import keep_head_in_fp32
from naruto_add.diffusion.v_prediction import V_SCHEDULE

Architecture = Literal["bk_base", "bk_small", "bk_tiny", "shallow", "none"]

_LEVEL_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(.*)$")
_LAYER = re.compile(r"^(resnets|attentions)\.(\d+)\.")


def student_config(teacher_config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """The student's configuration for `UNet2DConditionModel.from_config`.

    Raises StageError if the teacher's U-Net does not have the blocks that `architecture` removes.
    """
    config = {key: value for key, value in teacher_config.items() if not key.startswith("_")}
    if architecture == "none":
        return config
    check_removable(config, architecture)
    if architecture != "bk_base":
        config["mid_block_type"] = None
    if architecture in ("bk_tiny", "shallow"):
        config |= _without_deepest_level(config)
    is_shallow = architecture == "shallow"
    config["layers_per_block"] = (*layers_per_level(config)[:-1], 1) if is_shallow else 1
    return config


def shrink_unet(teacher_unet: UNet2DConditionModel, architecture: Architecture) -> UNet2DConditionModel:
    """A trainable fp32 student, each of whose weights is a copy of one of the teacher's; they share no storage."""
    config = student_config(teacher_unet.config, architecture)
    with torch.device("meta"):  # all weights are copied, so none is initialized and no random number is drawn
        student: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    teacher_weights = teacher_unet.state_dict()
    inherited = {
        name: teacher_weights[_inherited_name(name, config, teacher_unet.config)].to(torch.float32, copy=True)
        for name in student.state_dict()
    }
    student.load_state_dict(inherited, assign=True)
    if (schedule := getattr(teacher_unet, V_SCHEDULE, None)) is not None:
        student.register_buffer(V_SCHEDULE, schedule.clone(), persistent=False)
    return keep_head_in_fp32(student).requires_grad_(True).train()


def matching_blocks(student: UNet2DConditionModel, teacher_unet: UNet2DConditionModel) -> list[tuple[str, str]]:
    """Names of corresponding modules (student's, teacher's), whose outputs have the same shape.

    They are blocks. If the deepest level was removed, the student's deepest down block does not downsample, and the
    pair consists of the last layers of the two blocks instead.
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
    """Within the `with` block, each forward pass of `module` stores the named submodules' outputs in the mapping."""
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


def _inherited_name(name: str, config: Mapping[str, Any], teacher_config: Mapping[str, Any]) -> str:
    """The name of the teacher's weight that becomes the student's weight `name`.

    Of n layers that a level keeps, the down block's are the teacher's first n. The up block's are the first n and the
    last, the only other one whose input width fits. Without the deepest level, up block i is the teacher's i + 1.
    """
    block = _LEVEL_BLOCK.match(name)
    if block is None or block[1] == "down":
        return name
    layers, teacher_layers = layers_per_level(config), layers_per_level(teacher_config)
    index, rest = int(block[2]), block[3]
    level = len(layers) - 1 - index
    layer = _LAYER.match(rest)
    if layer and int(layer[2]) == layers[level]:  # the last of them
        rest = f"{layer[1]}.{teacher_layers[level]}.{rest[layer.end() :]}"
    return f"up_blocks.{index + len(teacher_layers) - len(layers)}.{rest}"


def _without_deepest_level(config: Mapping[str, Any]) -> dict[str, Any]:
    """Entries per level without the deepest, which is the last one, or the first one in `up_block_types`."""
    num_levels = len(config["block_out_channels"])
    shorter = {
        key: tuple(value[:-1])
        for key, value in config.items()
        if isinstance(value, list | tuple) and len(value) == num_levels and key != "up_block_types"
    }
    return {**shorter, "up_block_types": tuple(config["up_block_types"][1:])}


def _last_layer(unet: UNet2DConditionModel, index: int) -> str:
    block = unet.down_blocks[index]
    kind = "attentions" if getattr(block, "attentions", None) else "resnets"
    return f"down_blocks.{index}.{kind}.{len(block.resnets) - 1}"
