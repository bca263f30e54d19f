"""What frozen networks make of a split, computed once: latents of its pictures and embeddings of its prompts.

A cache is a safetensors file that carries the key of what it was made from. No file: it is made. A file with another
key, or a damaged one: an error, never a silent recomputation.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from naruto_add.data.dataset import Example
from naruto_add.data.pixels import load_pixels
from naruto_add.files import new_file
from naruto_add.runtime import StageError, progress

CHUNK = 64
TRANSFORM = "scaled posterior mean of the whole picture, float32"
EMPTY_PROMPT = ""


@dataclass(frozen=True)
class CachedLatents:
    """Scaled latents in the split's order, fp32 on the CPU; `flipped` are the mirrored pictures' (none: length 0)."""

    latents: Float[Tensor, "pictures c h w"]
    flipped: Float[Tensor, "flipped c h w"]


def unique_prompts(prompts: Iterable[str]) -> list[str]:
    """Every prompt once, in the order of its first appearance, after the empty one."""
    return list(dict.fromkeys([EMPTY_PROMPT, *prompts]))


def cached_latents(
    examples: Sequence[Example],
    *,
    flip: bool,
    vae: nn.Module,
    encode: Callable[[Tensor], Tensor],
    cache_path: Path,
) -> CachedLatents:
    """Latents of every picture, made by `encode` (pixels to scaled latents, with `vae`) unless `cache_path` has them.

    Raises StageError where the file is damaged or was made from other pictures, weights or options.
    """
    key = _key(TRANSFORM, flip, hash_model(vae), [_hash_bytes(item.image_path.read_bytes()) for item in examples])

    def compute() -> dict[str, Tensor]:
        pairs = [_encode_pair(chunk, encode, flip) for chunk in progress(_chunks(examples), desc="latents")]
        latents, flipped = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return {"latents": latents, "flipped": flipped}

    return CachedLatents(**_cached(cache_path, key, compute))


def cached_embeddings(
    prompts: list[str],
    *,
    text_encoder: nn.Module,
    encode: Callable[[list[str]], Tensor],
    cache_path: Path,
) -> Float[Tensor, "prompts tokens width"]:
    """Embeddings of these prompts, fp32 on the CPU, made by `encode` (by `text_encoder`) unless `cache_path` has them.

    Raises StageError where the file is damaged or was made from other prompts or weights.
    """
    key = _key("last hidden state, float32", hash_model(text_encoder), prompts)
    chunks = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]

    def compute() -> dict[str, Tensor]:
        return {"embeds": torch.cat([encode(chunk).float().cpu() for chunk in progress(chunks, desc="prompts")])}

    return _cached(cache_path, key, compute)["embeds"]


def hash_model(module: nn.Module) -> str:
    """A hash of weights, their dtypes and the module's configuration (without the path it was loaded from)."""
    digest = blake2b(digest_size=16)
    digest.update(json.dumps(_configuration(module), sort_keys=True, default=str).encode())
    for name, weight in module.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _configuration(module: nn.Module) -> dict[str, object]:
    config = getattr(module, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in values.items() if not name.startswith("_")}


def _chunks(examples: Sequence[Example]) -> list[Sequence[Example]]:
    return [examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]


def _encode_pair(examples: Sequence[Example], encode: Callable[[Tensor], Tensor], flip: bool) -> tuple[Tensor, Tensor]:
    pixels = load_pixels(examples)
    latents = encode(pixels).float().cpu()
    return latents, encode(pixels.flip(-1)).float().cpu() if flip else latents[:0]


def _cached(path: Path, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    if not path.exists():
        tensors = {name: tensor.contiguous() for name, tensor in compute().items()}
        with new_file(path) as partial:
            save_file(tensors, partial, metadata={"key": key})
    return _read(path, key)


def _read(path: Path, key: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("key", "")
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise StageError(f"{path}: this cache is damaged ({error}); delete it and run again") from error
    if found != key:
        raise StageError(f"{path}: this cache was made from other data, weights or options; delete it and run again")
    return tensors


def _key(*parts: object) -> str:
    return _hash_bytes(json.dumps(parts).encode())


def _hash_bytes(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
