"""Checkpoints in the hub layout of Stable Diffusion 1.5 and 2.1, with their old configurations and random weights.

The configurations are those of the published repositories, odd fields included: what today's diffusers writes would
hide how it treats files of versions 0.6 to 0.10. Levels, layers and names are the originals'; only widths are smaller.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.config.schema import Base

ROOT = Path(__file__).parent.parent
_LEGACY_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names of the autoencoder's attention layers in files of that time."""
HEAD_WIDTH = 32
"""Width of an attention head of the narrow Stable Diffusion 2.1, whose `attention_head_dim` lists numbers of heads."""
_FOR_TRANSFORMERS = {"architectures", "torch_dtype", "transformers_version", "_name_or_path", "model_type"}


@dataclass(frozen=True)
class Sizes:
    """Widths of U-Net, autoencoder and text encoder; group norms need multiples of 32."""

    unet: tuple[int, int, int, int] = (32, 32, 64, 64)
    vae: tuple[int, int, int, int] = (32, 32, 32, 32)
    text: int = 64
    text_layers: int = 1


SECOND = Sizes(text=128, text_layers=23)
"""The text encoder of Stable Diffusion 2.1 has 23 layers and a width of 1,024."""
SD15 = Sizes((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12)


def base_params(path: Path) -> Base:
    """Parameters of a base model at this path, a folder or a single file, at the size that the tests draw."""
    return Base(
        model=str(path),
        revision="",
        variant="",
        resolution_px=64,
        frozen_precision="fp32",
        autocast="fp32",
        prompt_template="{caption}",
        caption_chunks=1,
    )


def write_checkpoint(
    folder: Path,
    *,
    sizes: Sizes | None = None,
    prediction_type: str = "",
    variants: tuple[str, ...] = ("",),
    tokenizer_dir: Path = ROOT / "base/model/tokenizer",
    is_second: bool = False,
) -> Path:
    """Write a checkpoint; `variants` may contain "fp16". With a `prediction_type`, the scheduler's file names it.

    With `is_second` it has the structure of Stable Diffusion 2.1 and predicts v.
    """
    sizes = sizes or (SECOND if is_second else Sizes())
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir)
    if is_second:
        tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder / "tokenizer")
    configs = _configs(sizes, tokenizer, prediction_type)
    if is_second:
        configs = {name: config | _differences(sizes)[name] for name, config in configs.items()}
    for name, config in configs.items():
        _write_json(folder / name, config)
    for name, state in _states(configs).items():
        for variant in variants:
            weights = {key: value.half() if _is_rounded(variant, value) else value for key, value in state.items()}
            path = folder / f"{name}.{variant}.safetensors" if variant else folder / f"{name}.safetensors"
            save_file(weights, path, metadata={"format": "pt"})
    return folder


def _is_rounded(variant: str, value: Tensor) -> bool:
    return variant == "fp16" and value.is_floating_point()


def _configs(sizes: Sizes, tokenizer: Any, prediction_type: str) -> dict[str, dict[str, Any]]:
    version = {"_diffusers_version": "0.6.0"}
    unet = {
        "_class_name": "UNet2DConditionModel",
        **version,
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": list(sizes.unet),
        "center_input_sample": False,
        "cross_attention_dim": sizes.text,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }
    vae = {
        "_class_name": "AutoencoderKL",
        **version,
        "act_fn": "silu",
        "block_out_channels": list(sizes.vae),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    text_encoder = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": sizes.text,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * sizes.text,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": sizes.text // 64,
        "num_hidden_layers": sizes.text_layers,
        "pad_token_id": 1,
        "projection_dim": sizes.text,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": len(tokenizer),
    }
    scheduler = {
        "_class_name": "PNDMScheduler",
        **version,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
        **({"prediction_type": prediction_type} if prediction_type else {}),
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        **version,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return {
        "unet/config.json": unet,
        "vae/config.json": vae,
        "text_encoder/config.json": text_encoder,
        "scheduler/scheduler_config.json": scheduler,
        "model_index.json": index,
    }


def _differences(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """What the configurations of Stable Diffusion 2.1 have besides those of 1.5, or instead."""
    version = {"_diffusers_version": "0.10.0.dev0"}
    return {
        "unet/config.json": {
            **version,
            "attention_head_dim": [max(1, width // HEAD_WIDTH) for width in sizes.unet],
            "dual_cross_attention": False,
            "num_class_embeds": None,
            "only_cross_attention": False,
            "sample_size": 96,
            "upcast_attention": True,
            "use_linear_projection": True,
        },
        "vae/config.json": {**version, "sample_size": 768},
        "text_encoder/config.json": {
            "_name_or_path": "hf-models/stable-diffusion-v2-768x768/text_encoder",
            "hidden_act": "gelu",
            "projection_dim": sizes.text // 2,
            "transformers_version": "4.25.0.dev0",
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler",
            "_diffusers_version": "0.8.0",
            "prediction_type": "v_prediction",
        },
        "model_index.json": {
            "_diffusers_version": "0.8.0",
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
        },
    }


def _states(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """Random weights under the names of that time, by their file."""
    text_config = {
        key: value for key, value in configs["text_encoder/config.json"].items() if key not in _FOR_TRANSFORMERS
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(_public(configs["unet/config.json"]))
        vae = AutoencoderKL.from_config(_public(configs["vae/config.json"]))
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_config))
    text_state = {
        name if name.startswith("text_model.") else f"text_model.{name}": value
        for name, value in text_encoder.state_dict().items()
    }
    return {
        "unet/diffusion_pytorch_model": dict(unet.state_dict()),
        "vae/diffusion_pytorch_model": {_legacy(name): value for name, value in vae.state_dict().items()},
        "text_encoder/model": text_state | {"text_model.embeddings.position_ids": torch.arange(77)[None]},
    }


def _legacy(name: str) -> str:
    if ".attentions.0." in name:
        for new, old in _LEGACY_ATTENTION.items():
            name = name.replace(f".{new}.", f".{old}.")
    return name


def _public(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
