"""LoRA (Hu et al. 2021) on a Stable Diffusion pipeline: adapters are added by peft, saved for diffusers, and merged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPTextModel

from naruto_add.models.lora_start import TEXT_ENCODER, UNET, Factors, read_lora
from naruto_add.runtime.errors import StageError

LoraTargets = Literal["attention", "attention_convolutions"]

ADAPTER = "default"
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CONVOLUTIONS = (
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),  # residual blocks
    *("downsamplers.0.conv", "upsamplers.0.conv"),
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),  # the rest of transformer blocks
)
_UNET_TARGETS: dict[LoraTargets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention_convolutions": (*_ATTENTION, *_CONVOLUTIONS),
}
_TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def add_lora(
    unet: nn.Module,
    text_encoder: nn.Module | None,
    *,
    targets: LoraTargets,
    rank: int,
    seed: int,
    start_path: Path | None = None,
) -> int:
    """Add fp32 adapters of scale 1 (alpha = rank) and return their number.

    The outputs of both networks are unchanged, or, with a LoRA file at `start_path`, those with that LoRA; the layers
    that it adapts get adapters too. Only the adapters are trainable. Their initial weights depend only on the
    arguments; the global generator stays as it was. Raises StageError if a network has no layer to adapt, or if the
    file does not fit.
    """
    networks = {UNET: unet} | ({} if text_encoder is None else {TEXT_ENCODER: text_encoder})
    start: dict[str, dict[str, Factors]] = {name: {} for name in networks}
    if start_path is not None:
        start = read_lora(start_path, networks)
    targets_and_keys = {
        UNET: (_UNET_TARGETS[targets], f"teacher.lora_targets: {targets!r}"),
        TEXT_ENCODER: (_TEXT_ENCODER_TARGETS, "teacher.lora_text_encoder: true"),
    }
    num_layers = 0
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(seed)
        for name, network in networks.items():
            endings, key = targets_and_keys[name]
            num_layers += _adapt(network, endings, rank, key=key, start=start[name])
    return num_layers


def save_lora(folder: Path, *, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None) -> None:
    """Write the adapters as `pytorch_lora_weights.safetensors`, which `load_lora_weights` of diffusers reads.

    The U-Net's weights keep peft's names: diffusers' conversion renames only those of attention layers, and its loader
    then silently drops either these or all others.
    """
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=_adapter_state(unet),
        text_encoder_lora_layers=None if text_encoder is None else _text_encoder_state(text_encoder),
        safe_serialization=True,
    )


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Add the adapters to the weights (in fp32, rounded once) and remove them; the module's outputs stay the same."""
    for name, layer in lora_layers(module).items():
        base_layer = layer.get_base_layer()
        delta = layer.get_delta_weight(ADAPTER)
        base_layer.weight.copy_(base_layer.weight.float() + delta.float())
        module.set_submodule(name, base_layer)
    for part in module.modules():
        if hasattr(part, "peft_config"):
            del part.peft_config


def lora_layers(module: nn.Module) -> dict[str, LoraLayer]:
    """The adapted layers by name, in the order of the module."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def _adapt(module: nn.Module, targets: tuple[str, ...], rank: int, *, key: str, start: Mapping[str, Factors]) -> int:
    endings = tuple(f".{target}" for target in targets)
    names = [name for name, _ in module.named_modules() if f".{name}".endswith(endings)]
    if not names:
        raise StageError(
            f"{key} adapts no layer of {type(module).__name__}: none is named {', '.join(targets)}; use another "
            "base.model"
        )
    names = [name for name, _ in module.named_modules() if name in names or name in start]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=True)
    inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for name, factors in start.items():
        _begin_with(lora_layers(module)[name], factors, rank, name)
    return len(lora_layers(module))


@torch.no_grad()
def _begin_with(layer: LoraLayer, factors: Factors, rank: int, name: str) -> None:
    """Set the first rows of the adapter to these factors; the others, whose `up` is 0, change nothing at first."""
    if factors.rank > rank:
        raise StageError(
            f"teacher.lora_rank: {rank} is below the rank {factors.rank} of {name} in teacher.lora_start; use at least "
            f"{factors.rank}"
        )
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    if factors.down.numel() != factors.rank * down[0].numel() or factors.up.numel() != factors.rank * up[:, 0].numel():
        raise StageError(
            f"teacher.lora_start: its factors of {name} have the shapes {tuple(factors.down.shape)} and "
            f"{tuple(factors.up.shape)}, which do not fit the layer; use a LoRA of base.model's architecture"
        )
    down[: factors.rank] = factors.down.reshape(factors.rank, *down.shape[1:])
    up[:, : factors.rank] = factors.scale * factors.up.reshape(len(up), factors.rank, *up.shape[2:])


def _adapter_state(module: nn.Module) -> dict[str, Tensor]:
    state = get_peft_model_state_dict(module, adapter_name=ADAPTER)
    return {name: weight.detach().cpu().contiguous() for name, weight in state.items()}


def _text_encoder_state(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """The file format has the prefix `text_model.` in all names, which transformers 5 no longer has."""
    state = convert_state_dict_to_diffusers(_adapter_state(text_encoder))
    return {name if name.startswith("text_model.") else f"text_model.{name}": weight for name, weight in state.items()}
