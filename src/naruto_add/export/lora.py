"""The teacher's LoRA in the layout of kohya's sd-scripts, which ComfyUI, AUTOMATIC1111 and most artists' tools read.

Layers have diffusers' names with `_` for `.`, after `lora_unet_` or `lora_te_`. Each has `lora_down` (peft's `lora_A`),
`lora_up` (`lora_B`) and `alpha`; what is added to its weight is alpha / rank * up @ down.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from naruto_add.diffusion.token_chunks import TOKENS_PER_CHUNK
from naruto_add.export.modelspec import SD2_CONTEXT_WIDTH, SD_CONTEXT_WIDTH, modelspec, trigger_words
from naruto_add.export.safetensors_file import save_sorted
from naruto_add.runtime.errors import StageError

FILE = "lora_kohya.safetensors"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The file in which the stage `teacher` saves the adapters."""
MAX_TAGS = 200
"""Tags in the metadata: the most frequent ones. Captions in whole sentences rarely repeat, and would fill the file."""

_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
_KEY = re.compile(
    r"^(?P<network>unet|text_encoder)\.(?P<layer>.+)\."
    r"(?:lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up)\.weight$"
)


@dataclass(frozen=True, kw_only=True)
class LoraFacts:
    """What the metadata states. `captions` are those of the training pictures, in the prompt template."""

    base_model: str
    prediction_type: str
    prompt_template: str
    caption_chunks: int
    resolution_px: int
    captions: list[str]


def write_kohya_lora(source: Path, target: Path, *, facts: LoraFacts, dtype: torch.dtype) -> None:
    """Write the adapters of the diffusers file `source` as a kohya file. The bytes depend on the arguments alone."""
    state = kohya_state(load_file(source))
    save_sorted(
        {name: weight.to(dtype) for name, weight in state.items()}, target, metadata=kohya_metadata(state, facts)
    )


def kohya_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under kohya's names, with an alpha equal to the rank for each layer: this project's scale is 1."""
    converted = {}
    for name, weight in state.items():
        prefix, layer, side = _parts(name)
        kohya_name = prefix + layer.replace(".", "_")
        converted[f"{kohya_name}.lora_{side}.weight"] = weight
        if side == "down":
            converted[f"{kohya_name}.alpha"] = torch.tensor(float(len(weight)))
    return dict(sorted(converted.items()))


def kohya_metadata(state: Mapping[str, Tensor], facts: LoraFacts) -> dict[str, str]:
    """The entries that the tools show: base model, rank, alpha, resolution, tag counts and trigger words."""
    ranks = {len(weight) for name, weight in state.items() if name.endswith(".lora_down.weight")}
    rank, words, width = str(max(ranks)), trigger_words(facts.prompt_template), _context_width(state)
    is_convolutional = any(weight.ndim == 4 and weight.shape[-1] > 1 for weight in state.values())
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": json.dumps({"conv_dim": rank, "conv_alpha": rank} if is_convolutional else {}),
        "ss_sd_model_name": facts.base_model,
        "ss_v2": str(width == SD2_CONTEXT_WIDTH),
        "ss_resolution": f"({facts.resolution_px}, {facts.resolution_px})",
        "ss_num_train_images": str(len(facts.captions)),
        "ss_tag_frequency": json.dumps({"training": tag_counts(facts.captions)}),
        "modelspec.title": f"LoRA for {facts.base_model}",
        "modelspec.resolution": f"{facts.resolution_px}x{facts.resolution_px}",
        **modelspec(facts.prompt_template, facts.prediction_type),
    }
    if facts.caption_chunks > 1:
        metadata["ss_max_token_length"] = str(TOKENS_PER_CHUNK * facts.caption_chunks)
    if words:
        metadata["ss_training_comment"] = f"trigger words: {words}"
    if width in (None, SD_CONTEXT_WIDTH):
        metadata |= {"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    return metadata


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated part of the captions occurs, the most frequent `MAX_TAGS` first."""
    tags = Counter(tag.strip() for caption in captions for tag in caption.split(",") if tag.strip())
    ordered = sorted(tags.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[:MAX_TAGS])


def largest_difference(source: Path, target: Path) -> float:
    """Largest difference of what the two files add to a weight, of values above 1 relative to them.

    Raises StageError if they do not adapt the same layers.
    """
    ours, theirs = _deltas(kohya_state(load_file(source))), _deltas(load_file(target))
    if ours.keys() != theirs.keys():
        raise StageError(f"export: {target} adapts other layers than {source}: {sorted(ours.keys() ^ theirs.keys())}")
    return max(((ours[name] - theirs[name]).abs() / ours[name].abs().clamp(min=1)).max().item() for name in ours)


def _parts(name: str) -> tuple[str, str, str]:
    match = _KEY.match(name)
    if not match:
        raise StageError(
            f"export: {name!r} is not a weight of an adapter; train the teacher again (`dvc repro teacher`)"
        )
    side = "down" if re.search(r"(lora_A|down)\.weight$", name) else "up"
    return _PREFIXES[match["network"]], match["layer"], side


def _deltas(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """alpha / rank * up @ down by layer, in fp32."""
    return {layer: _delta(state, layer) for layer in sorted({name.split(".")[0] for name in state})}


def _delta(state: Mapping[str, Tensor], layer: str) -> Tensor:
    down, up = (state[f"{layer}.lora_{side}.weight"].float() for side in ("down", "up"))
    scale = state[f"{layer}.alpha"].item() / len(down)
    return scale * (up.flatten(1) @ down.flatten(1))


def _context_width(state: Mapping[str, Tensor]) -> int | None:
    """Width of the text embeddings that the adapted U-Net attends to; None if those layers have no adapter."""
    widths = [weight.shape[1] for name, weight in state.items() if name.endswith("attn2_to_k.lora_down.weight")]
    return widths[0] if widths else None
