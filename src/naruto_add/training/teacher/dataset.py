"""The teacher's data: latents of the training and validation splits by picture size, and their prompts."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.data.alternatives import PromptRows, prompt_rows
from naruto_add.data.buckets import by_size
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.images import Size
from naruto_add.data.latents import CachedLatents, cached_embeddings, cached_latents, unique_prompts
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, tokenize


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size, and the rows of their prompts in `TeacherData.prompts`."""

    latents: CachedLatents
    rows: PromptRows

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class TeacherData:
    """Latents and prompts, on the CPU; row 0 of `prompts` is the empty prompt.

    Both splits have a bucket for each size of their pictures, which is one without `ingest.aspect_buckets`. A training
    picture may have several prompts; of a validation picture, the first is used.
    """

    train: tuple[Bucket, ...]
    validation: tuple[Bucket, ...]
    drawn_rows: Int[Tensor, " drawn"]
    """The prompts that are drawn at each validation."""
    prompts: Float[Tensor, "prompts tokens width"] | Int[Tensor, "prompts tokens"]
    """Embeddings, or token ids if the text encoder is trained too."""


def load_data(
    bundle: ModelBundle,
    *,
    dataset_dir: Path,
    prompt_template: str,
    drawn_prompts: list[str],
    flip: bool,
    is_text_encoder_trained: bool,
    cache_dir: Path,
) -> TeacherData:
    """Both splits, encoded by the untrained bundle; encodings are cached in `cache_dir`.

    Raises StageError if a split is empty, or if a cache file is damaged or belongs to other data.
    """
    train, validation = (
        load_split(dataset_dir, split, prompt_template=prompt_template) for split in ("train", "validation")
    )
    validation = [replace(example, prompts=example.prompts[:1]) for example in validation]
    prompts = [prompt for example in (*train, *validation) for prompt in example.prompts]
    unique = unique_prompts([*prompts, *drawn_prompts])
    row_of = {prompt: row for row, prompt in enumerate(unique)}

    return TeacherData(
        train=_buckets(bundle, train, row_of, flip=flip, cache_dir=cache_dir / "latents_train"),
        validation=_buckets(bundle, validation, row_of, flip=False, cache_dir=cache_dir / "latents_validation"),
        drawn_rows=torch.tensor([row_of[prompt] for prompt in drawn_prompts]),
        prompts=tokenize(bundle, unique) if is_text_encoder_trained else _embeddings(bundle, unique, cache_dir),
    )


def _buckets(
    bundle: ModelBundle, examples: list[Example], row_of: dict[str, int], *, flip: bool, cache_dir: Path
) -> tuple[Bucket, ...]:
    """The examples by size; the latents of each size are cached in a folder of their own."""

    def bucket(size: Size, group: list[Example]) -> Bucket:
        latents = cached_latents(
            group,
            flip=flip,
            vae=bundle.vae,
            encode=lambda pixels: encode_pixels(bundle, pixels),
            cache_dir=cache_dir / f"{size[0]}x{size[1]}",
        )
        return Bucket(latents, prompt_rows(group, row_of))

    return tuple(bucket(size, group) for size, group in by_size(examples).items())


def _embeddings(bundle: ModelBundle, prompts: list[str], cache_dir: Path) -> Tensor:
    return cached_embeddings(
        prompts,
        text_encoder=bundle.text_encoder,
        encode=lambda batch: encode_prompts(bundle, batch),
        cache_dir=cache_dir / "prompts",
    )
