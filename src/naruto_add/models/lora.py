"""LoRA (Hu et al. 2021) on a Stable Diffusion pipeline: adapters are added by peft, saved for diffusers, and merged."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPTextModel

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
) -> int:
    """Add fp32 adapters of scale 1 (alpha = rank) and return their number.

    The outputs of both networks are unchanged, and only the adapters are trainable. Their initial weights depend only
    on the arguments; the global generator stays as it was. Raises StageError if a network has no layer to adapt.
    """
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(seed)
        num_layers = _adapt(unet, _UNET_TARGETS[targets], rank, key=f"teacher.lora_targets: {targets!r}")
        if text_encoder is not None:
            num_layers += _adapt(text_encoder, _TEXT_ENCODER_TARGETS, rank, key="teacher.lora_text_encoder: true")
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


def _adapt(module: nn.Module, targets: tuple[str, ...], rank: int, *, key: str) -> int:
    endings = tuple(f".{target}" for target in targets)
    names = [name for name, _ in module.named_modules() if f".{name}".endswith(endings)]
    if not names:
        raise StageError(
            f"{key} adapts no layer of {type(module).__name__}: none is named {', '.join(targets)}; use another "
            "base.model"
        )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=True)
    inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return len(lora_layers(module))


def _adapter_state(module: nn.Module) -> dict[str, Tensor]:
    state = get_peft_model_state_dict(module, adapter_name=ADAPTER)
    return {name: weight.detach().cpu().contiguous() for name, weight in state.items()}


def _text_encoder_state(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """The file format has the prefix `text_model.` in all names, which transformers 5 no longer has."""
    state = convert_state_dict_to_diffusers(_adapter_state(text_encoder))
    return {name if name.startswith("text_model.") else f"text_model.{name}": weight for name, weight in state.items()}
