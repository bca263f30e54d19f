"""LoRA (Hu et al. 2021) on a Stable Diffusion pipeline: put in by peft, saved in diffusers' format, or merged away."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPTextModel

from naruto_add.runtime import StageError

LoraTargets = Literal["attention", "attention_convolutions"]

ADAPTER = "default"
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CONVOLUTIONS = (
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),  # residual blocks
    *("downsamplers.0.conv", "upsamplers.0.conv"),
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),  # what surrounds attention
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
    alpha: float,
    seed: int,
) -> int:
    """The modules now have fp32 adapters that change nothing yet and alone are trainable; returns how many.

    Raises StageError where a module has no layer to adapt.
    """
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(seed)
        num_layers = _adapt(unet, _UNET_TARGETS[targets], rank, alpha, key=f"teacher.lora_targets: {targets!r}")
        if text_encoder is not None:
            key = "teacher.lora_text_encoder: true"
            num_layers += _adapt(text_encoder, _TEXT_ENCODER_TARGETS, rank, alpha, key=key)
    return num_layers


def save_lora(folder: Path, *, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None) -> None:
    """Write the adapters as `pytorch_lora_weights.safetensors`, to be loaded by `load_lora_weights`.

    The scale alpha / rank is multiplied into the weights: the format keeps alpha in metadata that most loaders ignore.
    The U-Net keeps peft's names: diffusers' own conversion renames attention's weights only, and its loader then
    silently drops either these or the others.
    """
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=_scaled_state(unet),
        text_encoder_lora_layers=None if text_encoder is None else _text_encoder_state(text_encoder),
        safe_serialization=True,
    )


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """The module is again a plain one, and draws what it drew with its adapters (summed in fp32, rounded once)."""
    for name, layer in lora_layers(module).items():
        base_layer = layer.get_base_layer()
        delta = layer.get_delta_weight(ADAPTER)
        base_layer.weight.copy_(base_layer.weight.float() + delta.float())
        module.set_submodule(name, base_layer)
    for part in module.modules():
        if hasattr(part, "peft_config"):
            del part.peft_config


def lora_layers(module: nn.Module) -> dict[str, LoraLayer]:
    """The adapted layers by name, in the module's order."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def _adapt(module: nn.Module, targets: tuple[str, ...], rank: int, alpha: float, *, key: str) -> int:
    endings = tuple(f".{target}" for target in targets)
    names = [name for name, _ in module.named_modules() if f".{name}".endswith(endings)]
    if not names:
        raise StageError(f"{key} adapts no layer of {type(module).__name__}: none is named {', '.join(targets)}")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, init_lora_weights=True)
    inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return len(lora_layers(module))


def _scaled_state(module: nn.Module) -> dict[str, Tensor]:
    scale = next(iter(lora_layers(module).values())).scaling[ADAPTER]
    state = get_peft_model_state_dict(module, adapter_name=ADAPTER)
    return {
        name: (weight * scale if ".lora_B." in name else weight).detach().cpu().contiguous()
        for name, weight in state.items()
    }


def _text_encoder_state(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """transformers 5 dropped `text_model.` from names; the format, and whoever reads it, did not."""
    state = convert_state_dict_to_diffusers(_scaled_state(text_encoder))
    return {name if name.startswith("text_model.") else f"text_model.{name}": weight for name, weight in state.items()}
