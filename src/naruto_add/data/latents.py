"""Outputs of frozen networks for a split, computed once: latents of its pictures and embeddings of its prompts.

They are cached in shards, so that an interrupted computation continues after its last complete shard.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from naruto_add.data.dataset import Example
from naruto_add.data.pixels import load_pixels
from naruto_add.runtime.cache import hash_model, read_tensors, write_tensors
from naruto_add.runtime.files import content_hash
from naruto_add.runtime.progress import progress

SHARD = 64
"""Pictures or prompts that are encoded at once and cached in one file."""
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
    cache_dir: Path,
) -> CachedLatents:
    """Latents of every picture, read from `cache_dir` or computed by `encode`, which maps pixels to scaled latents.

    Raises StageError if a file is damaged or was computed from other pictures, another `vae` or another `flip`.
    """
    key = content_hash(TRANSFORM, flip, hash_model(vae), *[example.image_path for example in examples])

    def compute(shard: slice) -> dict[str, Tensor]:
        latents, flipped = _encode_pair(examples[shard], encode, flip)
        return {"latents": latents, "flipped": flipped}

    return CachedLatents(**_cached_shards(cache_dir, len(examples), key=key, compute=compute, desc="latents"))


def cached_embeddings(
    prompts: list[str],
    *,
    text_encoder: nn.Module,
    encode: Callable[[list[str]], Tensor],
    cache_dir: Path,
) -> Float[Tensor, "prompts tokens width"]:
    """Embeddings of the prompts, fp32, on the CPU, read from `cache_dir` or computed by `encode`.

    Raises StageError if a file is damaged or was computed from other prompts or another `text_encoder`.
    """
    key = content_hash("last hidden state, float32", hash_model(text_encoder), prompts)

    def compute(shard: slice) -> dict[str, Tensor]:
        return {"embeds": encode(prompts[shard]).float().cpu()}

    return _cached_shards(cache_dir, len(prompts), key=key, compute=compute, desc="prompts")["embeds"]


def _cached_shards(
    folder: Path, num_items: int, *, key: str, compute: Callable[[slice], Mapping[str, Tensor]], desc: str
) -> dict[str, Tensor]:
    """The tensors of all items. Every `SHARD` items are a file in `folder`; `compute` is called for those missing."""
    paths = {first: folder / f"{first}.safetensors" for first in range(0, num_items, SHARD)}
    keys = {first: f"{key} {first}" for first in paths}
    missing = [first for first, path in paths.items() if not path.exists()]
    if missing:
        for first in progress(missing, desc=desc, total=len(paths), initial=len(paths) - len(missing)):
            write_tensors(paths[first], compute(slice(first, first + SHARD)), key=keys[first])
    shards = [read_tensors(path, key=keys[first]) for first, path in paths.items()]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def _encode_pair(examples: Sequence[Example], encode: Callable[[Tensor], Tensor], flip: bool) -> tuple[Tensor, Tensor]:
    pixels = load_pixels(examples)
    latents = encode(pixels).float().cpu()
    return latents, encode(pixels.flip(-1)).float().cpu() if flip else latents[:0]
