"""CLIP (Radford et al. 2021): image and text vectors, by transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.models.hub import load_frozen
from naruto_add.runtime.errors import StageError


@dataclass(frozen=True)
class ClipNetwork:
    """Both towers with the tokenizer. `name` is the folder or hub repository that they come from."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def input_px(self) -> int:
        """Side of the pictures that the image tower reads."""
        return int(self.model.config.vision_config.image_size)


def load_clip_network(source: str, device: torch.device, *, key: str, instead: str) -> ClipNetwork:
    """The CLIP model in `source`, a folder or `owner/name@commit`, frozen, in eval mode.

    Raises StageError if it cannot be loaded or is not a CLIP; the message names the parameter `key` and the remedy
    `instead`.
    """
    from transformers import AutoConfig, CLIPModel, CLIPTokenizer

    kind = load_frozen(AutoConfig, source, key=key, instead=instead).model_type
    if kind != "clip":
        raise StageError(f"{key}: {source} is a {kind} model, not a CLIP; {instead}")
    model = load_frozen(CLIPModel, source, key=key, instead=instead)
    return ClipNetwork(source, model.to(device), load_frozen(CLIPTokenizer, source, key=key, instead=instead))


def image_vectors(clip: ClipNetwork, pixels: Float[Tensor, "batch 3 px px"]) -> Float[Tensor, "batch vector"]:
    """Vectors of pixels of side `clip.input_px`, normalized by CLIP's mean and deviation; gradients reach them."""
    vectors: Tensor = clip.model.visual_projection(clip.model.vision_model(pixel_values=pixels).pooler_output)
    return vectors


@torch.no_grad()
def text_vectors(clip: ClipNetwork, captions: Sequence[str]) -> Float[Tensor, "batch vector"]:
    """Vectors of captions, truncated to the length that CLIP reads."""
    length = clip.model.config.text_config.max_position_embeddings
    tokens = clip.tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).to(clip.model.device)
    vectors: Tensor = clip.model.text_projection(clip.model.text_model(**tokens).pooler_output)
    return vectors
