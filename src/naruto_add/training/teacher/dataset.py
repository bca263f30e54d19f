"""The teacher's data: latents of the training and validation splits, and their prompts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.data.alternatives import PromptRows, prompt_rows
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import CachedLatents, cached_embeddings, cached_latents, unique_prompts
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, tokenize


@dataclass(frozen=True, kw_only=True)
class TeacherData:
    """Latents and prompts, on the CPU. Fields named `_rows` are rows of `prompts`; row 0 is the empty prompt.

    A training picture may have several prompts; a validation picture has its first.
    """

    train: CachedLatents
    train_rows: PromptRows
    validation: CachedLatents
    validation_rows: Int[Tensor, " validation"]
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
    train_prompts = [prompt for example in train for prompt in example.prompts]
    validation_prompts = [example.prompt for example in validation]
    unique = unique_prompts([*train_prompts, *validation_prompts, *drawn_prompts])
    row_of = {prompt: row for row, prompt in enumerate(unique)}

    def rows(prompts: list[str]) -> Tensor:
        return torch.tensor([row_of[prompt] for prompt in prompts])

    return TeacherData(
        train=_latents(bundle, train, flip=flip, cache_path=cache_dir / "latents_train.safetensors"),
        train_rows=prompt_rows(train, row_of),
        validation=_latents(bundle, validation, flip=False, cache_path=cache_dir / "latents_validation.safetensors"),
        validation_rows=rows(validation_prompts),
        drawn_rows=rows(drawn_prompts),
        prompts=tokenize(bundle, unique) if is_text_encoder_trained else _embeddings(bundle, unique, cache_dir),
    )


def _latents(bundle: ModelBundle, examples: list[Example], *, flip: bool, cache_path: Path) -> CachedLatents:
    return cached_latents(
        examples, flip=flip, vae=bundle.vae, encode=lambda pixels: encode_pixels(bundle, pixels), cache_path=cache_path
    )


def _embeddings(bundle: ModelBundle, prompts: list[str], cache_dir: Path) -> Tensor:
    return cached_embeddings(
        prompts,
        text_encoder=bundle.text_encoder,
        encode=lambda batch: encode_prompts(bundle, batch),
        cache_path=cache_dir / "prompts.safetensors",
    )
