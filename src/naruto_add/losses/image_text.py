"""Losses and accuracy of vectors of pictures and captions that should match."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def image_text_loss(
    image_vectors: Float[Tensor, "batch width"], text_vectors: Float[Tensor, "batch width"]
) -> Float[Tensor, ""]:
    """1 - cosine similarity, in [0, 2]; no gradient reaches the text vectors."""
    return (1 - F.cosine_similarity(image_vectors, text_vectors.detach())).mean()


def info_nce(
    image_vectors: Float[Tensor, "batch width"],
    text_vectors: Float[Tensor, "batch width"],
    caption_ids: Int[Tensor, " batch"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of finding each picture's caption, and each caption's picture, in the batch.

    Radford et al. 2021, section 2.3. Other items with the same caption (equal `caption_ids`) are not counted as wrong.
    """
    logits = F.normalize(image_vectors, dim=1) @ F.normalize(text_vectors, dim=1).T / temperature
    is_own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill((caption_ids[:, None] == caption_ids) & ~is_own, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def retrieval_accuracy(
    image_vectors: Float[Tensor, "batch width"],
    text_vectors: Float[Tensor, "batch width"],
    caption_ids: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The fraction of pictures whose most similar caption in the batch is their own or equal to it."""
    similarity = F.normalize(image_vectors, dim=1) @ F.normalize(text_vectors, dim=1).T
    return (caption_ids[similarity.argmax(dim=1)] == caption_ids).float().mean()
