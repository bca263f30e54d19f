"""CLIP (Radford et al. 2021): how well a picture fits its caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from naruto_add.evaluation.features import CLIP_MEAN, CLIP_STD, NETWORK_BATCH, Images, as_tensor, normalized, resize
from naruto_add.evaluation.hub import load_frozen
from naruto_add.runtime import StageError

KEY = "evaluate.clip_score"
OFF = "off"


@dataclass(frozen=True)
class ClipNetwork:
    """Both towers with the tokenizer; `name` says which CLIP it is."""

    name: str
    model: Any
    tokenizer: Any


def load_clip(source: str, device: torch.device) -> ClipNetwork:
    """The model that `evaluate.clip_score` names. Raises StageError where it cannot be had or is no CLIP."""
    from transformers import AutoConfig, CLIPModel, CLIPTokenizer

    instead = f"set it to '{OFF}'"
    kind = load_frozen(AutoConfig, source, key=KEY, instead=instead).model_type
    if kind != "clip":
        raise StageError(f"{KEY}: {source} is a {kind} and no CLIP, so its score may not be called clip_score")
    model = load_frozen(CLIPModel, source, key=KEY, instead=instead)
    return ClipNetwork(source, model.to(device), load_frozen(CLIPTokenizer, source, key=KEY, instead=instead))


@torch.no_grad()
def clip_scores(images: Images, captions: Sequence[str], clip: ClipNetwork) -> NDArray[np.float64]:
    """One per picture and its caption."""
    scores = [
        score(_image_vectors(clip, part), _text_vectors(clip, captions[first : first + len(part)]))
        for first, part in zip(
            range(0, len(images), NETWORK_BATCH), as_tensor(images).split(NETWORK_BATCH), strict=True
        )
    ]
    return torch.cat(scores).double().cpu().numpy()


def score(
    image_vectors: Float[Tensor, "batch width"], text_vectors: Float[Tensor, "batch width"]
) -> Float[Tensor, " batch"]:
    """100 max(cos, 0) (Hessel et al. 2021, with the usual 100 for their weight of 2.5)."""
    return 100 * F.cosine_similarity(image_vectors, text_vectors).clamp(min=0)


def _image_vectors(clip: ClipNetwork, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
    model = clip.model
    resized = resize(pixels.to(model.device), model.config.vision_config.image_size)
    pooled = model.vision_model(pixel_values=normalized(resized, CLIP_MEAN, CLIP_STD)).pooler_output
    vectors: Tensor = model.visual_projection(pooled)
    return vectors


def _text_vectors(clip: ClipNetwork, captions: Sequence[str]) -> Float[Tensor, "batch width"]:
    length = clip.model.config.text_config.max_position_embeddings
    tokens = clip.tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).to(clip.model.device)
    vectors: Tensor = clip.model.text_projection(clip.model.text_model(**tokens).pooler_output)
    return vectors
