"""The CLIP score (Hessel et al. 2021): how well a picture fits its caption."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from naruto_add.evaluation.features import NETWORK_BATCH, resize
from naruto_add.imaging.pixels import Images, as_tensor
from naruto_add.models.backbones import standardized
from naruto_add.models.clip import ClipNetwork, image_vectors, load_clip_network, text_vectors

OFF = "off"


def load_clip(source: str, device: torch.device) -> ClipNetwork:
    """The CLIP model of `evaluate.clip_score`. Raises StageError if it is missing or is not a CLIP model."""
    return load_clip_network(source, device, key="evaluate.clip_score", instead=f"set it to '{OFF}'")


@torch.no_grad()
def clip_scores(images: Images, captions: Sequence[str], clip: ClipNetwork) -> NDArray[np.float64]:
    """One score in [0, 100] per picture and its caption."""
    firsts = range(0, len(images), NETWORK_BATCH)
    batches = as_tensor(images).split(NETWORK_BATCH)
    scores = [
        score(_image_vectors(clip, batch), text_vectors(clip, captions[first : first + len(batch)]))
        for first, batch in zip(firsts, batches, strict=True)
    ]
    return torch.cat(scores).double().cpu().numpy()


def score(
    image_vectors: Float[Tensor, "batch width"], text_vectors: Float[Tensor, "batch width"]
) -> Float[Tensor, " batch"]:
    """100 max(cos, 0) (Hessel et al. 2021, whose factor is 2.5 instead of the now usual 100)."""
    return 100 * F.cosine_similarity(image_vectors, text_vectors).clamp(min=0)


def _image_vectors(clip: ClipNetwork, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
    resized = resize(pixels.to(clip.model.device), clip.input_px)
    return image_vectors(clip, standardized(resized / 255, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
