"""Single files in the original layout of Stable Diffusion 1.x and 2.x: configurations derived from their tensors.

Such a file has weights only. Widths and layers follow from the shapes; what no shape tells, such as the number of
attention heads, is as in the published models. Only the file's header is read here, and torch is not imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from naruto_add.diffusion.token_chunks import CHUNK_LENGTH
from naruto_add.runtime.clip_tokenizer import VOCABULARY_SIZE, write_clip_tokenizer, write_config
from naruto_add.runtime.errors import StageError

HEAD_WIDTH = 64
"""Width of a head of text encoders and of the U-Net of Stable Diffusion 2.x; 1.x has eight heads at every width."""
_UNET, _VAE, _CLIP, _OPEN_CLIP = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.model.",
)
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion 1.x and 2.x, as arguments of diffusers' schedulers."""

_NEEDED = "base.model needs U-Net, autoencoder and text encoder of Stable Diffusion 1.x or 2.x in one file"
_OTHER_KINDS = {
    "a LoRA": (".lora_", ".lora.", "lora_unet_", ".hada_w1_", ".lokr_w1"),
    "a ControlNet": ("control_model.", "controlnet_cond_embedding."),
    "an embedding of a word (textual inversion)": ("emb_params", "string_to_param"),
    "a model of Stable Diffusion XL": ("conditioner.embedders.",),
    "a model of Stable Diffusion 3": (".joint_blocks.",),
    "a model of Flux": ("double_blocks.",),
}
"""Kinds of files that are no base model, and parts of the names of their tensors."""
_PARTS = {
    "an autoencoder (VAE) alone": ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", _VAE),
    "a U-Net alone": (_UNET, "down_blocks.", "up_blocks.", "mid_block.", "conv_", "time_embedding.", "add_embedding."),
    "a text encoder alone": ("text_model.", "transformer.", _CLIP, _OPEN_CLIP),
}
"""Kinds of files with a part of a base model only, and the beginnings of the names of all their tensors."""

Shapes = Mapping[str, tuple[int, ...]]
Configs = dict[str, dict[str, Any]]


def is_single_file(model: str) -> bool:
    """Whether `base.model` names a file here."""
    return Path(model).is_file()


def single_file_configs(path: Path) -> Configs:
    """The configurations of unet, vae, text_encoder and scheduler, by these names.

    Raises StageError if the file is no safetensors file of Stable Diffusion 1.x or 2.x, or does not say what it
    predicts.
    """
    shapes, metadata = _read_header(path)
    if seems := _seems(shapes):
        instead = "; name a LoRA as teacher.lora_start" if seems == "a LoRA" else ""
        raise StageError(f"base.model: {str(path)!r} seems to be {seems}, but {_NEEDED}{instead}")
    try:
        unet = _unet_config(shapes)
        configs = {"unet": unet, "vae": _vae_config(shapes), "text_encoder": _text_config(shapes)}
    except (KeyError, IndexError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else "its tensors have other shapes"
        raise StageError(
            f"base.model: {str(path)!r} is not a file of Stable Diffusion 1.x or 2.x in the original layout: {reason}; "
            "use another file, or a folder in diffusers format"
        ) from error
    if unet["in_channels"] != unet["out_channels"]:
        raise StageError(
            f"base.model: the U-Net of {str(path)!r} has {unet['in_channels']} input channels, as for inpainting; use "
            "a text-to-image model"
        )
    return {**configs, "scheduler": _scheduler_config(path, shapes, metadata)}


def write_configs(path: Path, folder: Path) -> None:
    """Write the configurations of the file, and CLIP's tokenizer, as `from_single_file` of diffusers expects them.

    Raises StageError if the text encoder has another vocabulary than CLIP's.
    """
    configs = single_file_configs(path)
    if configs["text_encoder"]["vocab_size"] != VOCABULARY_SIZE:
        raise StageError(
            f"base.model: the text encoder of {str(path)!r} has {configs['text_encoder']['vocab_size']} tokens, and "
            f"CLIP's has {VOCABULARY_SIZE}; use a folder in diffusers format, which contains its tokenizer"
        )
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", configs["scheduler"]["_class_name"]],
    }
    write_config(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **parts})
    for name, config in configs.items():
        write_config(folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json"), config)
    write_clip_tokenizer(folder / "tokenizer", padding="!" if _is_second(configs) else "<|endoftext|>")


def _read_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    if path.suffix != ".safetensors":
        raise StageError(
            f"base.model: {str(path)!r} is not a safetensors file; other formats can execute code when they are "
            "loaded: use a .safetensors file or a folder in diffusers format"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise StageError(f"base.model: {str(path)!r} is damaged ({error}); download it again") from error


def _seems(shapes: Shapes) -> str:
    """What a file is that is no base model, as far as the names of its tensors tell; empty for any other file."""
    for kind, marks in _OTHER_KINDS.items():
        if any(mark in name for name in shapes for mark in marks):
            return kind
    for kind, beginnings in _PARTS.items():
        if shapes and all(name.startswith(beginnings) for name in shapes):
            return kind
    return ""


def _unet_config(shapes: Shapes) -> dict[str, Any]:
    levels: list[list[tuple[int, bool]]] = [[]]
    """The resnets of each level: output channels, and whether an attention follows."""
    block = 1
    while True:
        prefix = f"{_UNET}input_blocks.{block}."
        if f"{prefix}0.op.weight" in shapes:
            levels.append([])
        elif f"{prefix}0.in_layers.2.weight" in shapes:
            levels[-1].append((shapes[f"{prefix}0.in_layers.2.weight"][0], f"{prefix}1.proj_in.weight" in shapes))
        else:
            break
        block += 1
    if not all(levels):
        raise KeyError(f"{_UNET}input_blocks.{block}.0.in_layers.2.weight")
    channels = [level[0][0] for level in levels]
    has_attention = [level[0][1] for level in levels]
    projection = shapes[f"{_UNET}middle_block.1.proj_in.weight"]
    is_second = len(projection) == 2
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": [width // HEAD_WIDTH for width in channels] if is_second else 8,
        "block_out_channels": channels,
        "cross_attention_dim": shapes[f"{_UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "down_block_types": ["CrossAttnDownBlock2D" if item else "DownBlock2D" for item in has_attention],
        "in_channels": shapes[f"{_UNET}input_blocks.0.0.weight"][1],
        "layers_per_block": len(levels[0]),
        "out_channels": shapes[f"{_UNET}out.2.weight"][0],
        "sample_size": 64,
        "up_block_types": ["CrossAttnUpBlock2D" if item else "UpBlock2D" for item in reversed(has_attention)],
        "use_linear_projection": is_second,
        "upcast_attention": is_second,  # the attention of Stable Diffusion 2.1 overflows fp16
    }


def _vae_config(shapes: Shapes) -> dict[str, Any]:
    encoder = f"{_VAE}encoder.down."
    levels = len({name.split(".")[3] for name in shapes if name.startswith(encoder)})
    layers = len({name.split(".")[5] for name in shapes if name.startswith(f"{encoder}0.block.")})
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [shapes[f"{encoder}{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "latent_channels": shapes[f"{_VAE}decoder.conv_in.weight"][1],
        "layers_per_block": layers,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text_config(shapes: Shapes) -> dict[str, Any]:
    is_clip = f"{_CLIP}embeddings.token_embedding.weight" in shapes
    if is_clip:
        embedding, layers = f"{_CLIP}embeddings.token_embedding.weight", f"{_CLIP}encoder.layers."
        hidden = f"{layers}0.mlp.fc1.weight"
    else:
        embedding, layers = f"{_OPEN_CLIP}token_embedding.weight", f"{_OPEN_CLIP}transformer.resblocks."
        hidden = f"{layers}0.mlp.c_fc.weight"
    vocabulary, width = shapes[embedding]
    num_layers = len({name.removeprefix(layers).split(".")[0] for name in shapes if name.startswith(layers)})
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu" if is_clip else "gelu",
        "hidden_size": width,
        "intermediate_size": shapes[hidden][0],
        "max_position_embeddings": CHUNK_LENGTH,
        "num_attention_heads": width // HEAD_WIDTH,
        "num_hidden_layers": num_layers if is_clip else num_layers - 1,  # Stable Diffusion 2.x uses the last but one
        "projection_dim": width if is_clip else width // 2,
        "vocab_size": vocabulary,
        "bos_token_id": VOCABULARY_SIZE - 2,
        "eos_token_id": VOCABULARY_SIZE - 1,
        "pad_token_id": VOCABULARY_SIZE - 1,
    }


def _scheduler_config(path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
    stated = metadata.get("modelspec.prediction_type", "v" if "v_pred" in shapes else "")
    if not stated and f"{_OPEN_CLIP}token_embedding.weight" in shapes:
        raise StageError(
            f"base.model: {str(path)!r} does not say whether it predicts epsilon (as Stable Diffusion 2.1-base) or v "
            "(as 2.1), and its tensors are the same in both cases; use the model's folder in diffusers format, or "
            "write modelspec.prediction_type (epsilon or v) into the file's metadata"
        )
    if stated.startswith("v"):
        return {"_class_name": "DDIMScheduler", **SD_SCHEDULE, "clip_sample": False, "prediction_type": "v_prediction"}
    return {"_class_name": "PNDMScheduler", **SD_SCHEDULE, "skip_prk_steps": True, "prediction_type": "epsilon"}


def _is_second(configs: Configs) -> bool:
    return bool(configs["unet"]["use_linear_projection"])
