"""CLIP (Radford et al. 2021): both towers, as transformers loads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.models.hub import load_frozen
from naruto_add.runtime import StageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipNetwork:
    """Both towers with the tokenizer; `name` says which CLIP it is."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def input_px(self) -> int:
        """Side of the pictures that it was trained on."""
        return int(self.model.config.vision_config.image_size)


def load_clip_network(source: str, device: torch.device, *, key: str, instead: str) -> ClipNetwork:
    """`source`, a folder or `owner/name@commit`, frozen.

    Raises StageError, which names the parameter `key` and what to do `instead`, where it cannot be had or is no CLIP.
    """
    from transformers import AutoConfig, CLIPModel, CLIPTokenizer

    kind = load_frozen(AutoConfig, source, key=key, instead=instead).model_type
    if kind != "clip":
        raise StageError(f"{key}: {source} is a {kind} and no CLIP; {instead}")
    model = load_frozen(CLIPModel, source, key=key, instead=instead)
    return ClipNetwork(source, model.to(device), load_frozen(CLIPTokenizer, source, key=key, instead=instead))


def image_vectors(clip: ClipNetwork, pixels: Float[Tensor, "batch 3 px px"]) -> Float[Tensor, "batch vector"]:
    """Of pixels that already have CLIP's own size, mean and deviation; gradients pass to them."""
    vectors: Tensor = clip.model.visual_projection(clip.model.vision_model(pixel_values=pixels).pooler_output)
    return vectors


@torch.no_grad()
def text_vectors(clip: ClipNetwork, captions: Sequence[str]) -> Float[Tensor, "batch vector"]:
    """Of captions, cut to what CLIP reads."""
    length = clip.model.config.text_config.max_position_embeddings
    tokens = clip.tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).to(clip.model.device)
    vectors: Tensor = clip.model.text_projection(clip.model.text_model(**tokens).pooler_output)
    return vectors
