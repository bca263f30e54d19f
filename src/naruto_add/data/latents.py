"""Outputs of frozen networks for a split, computed once: latents of its pictures and embeddings of its prompts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from naruto_add.data.dataset import Example
from naruto_add.data.pixels import load_pixels
from naruto_add.runtime.cache import cached_tensors, hash_model
from naruto_add.runtime.files import content_hash
from naruto_add.runtime.progress import progress

BATCH_SIZE = 64
"""Pictures or prompts encoded at once."""
TRANSFORM = "scaled posterior mean of the whole picture, float32"
"""Part of the latents' key: change it when what is stored changes."""
EMPTY_PROMPT = ""


@dataclass(frozen=True, kw_only=True)
class CachedLatents:
    """Scaled latents in the split's order, fp32, on the CPU. `flipped` are those of the mirrored pictures, or empty."""

    latents: Float[Tensor, "pictures c h w"]
    flipped: Float[Tensor, "flipped c h w"]


def unique_prompts(prompts: Iterable[str]) -> list[str]:
    """The empty prompt, then each prompt once in the order of first appearance."""
    return list(dict.fromkeys([EMPTY_PROMPT, *prompts]))


def cached_latents(
    examples: Sequence[Example],
    *,
    flip: bool,
    vae: nn.Module,
    encode: Callable[[Tensor], Tensor],
    cache_path: Path,
) -> CachedLatents:
    """Latents of every picture, read from `cache_path` or computed by `encode`, which maps pixels to scaled latents.

    Raises StageError if the file is damaged or was computed from other pictures, another `vae` or another `flip`.
    """
    key = content_hash(TRANSFORM, flip, hash_model(vae), *[example.image_path for example in examples])

    def compute() -> dict[str, Tensor]:
        batches = progress(_batches(len(examples)), desc="latents")
        pairs = [_encode_pair(examples[batch], encode, flip) for batch in batches]
        latents, flipped = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return {"latents": latents, "flipped": flipped}

    return CachedLatents(**cached_tensors(cache_path, key=key, compute=compute))


def cached_embeddings(
    prompts: list[str],
    *,
    text_encoder: nn.Module,
    encode: Callable[[list[str]], Tensor],
    cache_path: Path,
) -> Float[Tensor, "prompts tokens width"]:
    """Embeddings of the prompts, fp32, on the CPU, read from `cache_path` or computed by `encode`.

    Raises StageError if the file is damaged or was computed from other prompts or another `text_encoder`.
    """
    key = content_hash("last hidden state, float32", hash_model(text_encoder), prompts)

    def compute() -> dict[str, Tensor]:
        batches = progress(_batches(len(prompts)), desc="prompts")
        return {"embeds": torch.cat([encode(prompts[batch]).float().cpu() for batch in batches])}

    return cached_tensors(cache_path, key=key, compute=compute)["embeds"]


def _batches(num_items: int) -> list[slice]:
    return [slice(first, first + BATCH_SIZE) for first in range(0, num_items, BATCH_SIZE)]


def _encode_pair(examples: Sequence[Example], encode: Callable[[Tensor], Tensor], flip: bool) -> tuple[Tensor, Tensor]:
    pixels = load_pixels(examples)
    latents = encode(pixels).float().cpu()
    return latents, encode(pixels.flip(-1)).float().cpu() if flip else latents[:0]
