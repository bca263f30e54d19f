"""What the teacher is trained on: cached latents and prompts, and batches of both with all their randomness."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import batch_indices, step_generator
from naruto_add.conventions import NUM_TRAIN_TIMESTEPS
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import CachedLatents, cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, tokenize
from naruto_add.params import Teacher
from naruto_add.training.sharing import Items

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)
VALIDATION_STREAM = 1


@dataclass(frozen=True)
class TeacherData:
    """Latents of two splits, and every prompt's embedding, or its token ids where the text encoder is trained."""

    train: CachedLatents
    train_rows: Int[Tensor, " train"]
    validation: CachedLatents
    validation_rows: Int[Tensor, " validation"]
    picture_rows: Int[Tensor, " pictures"]
    prompts: Float[Tensor, "prompts tokens width"] | Int[Tensor, "prompts tokens"]
    """Rows are what the others' `_rows` count; row 0 is the empty prompt."""


@dataclass(frozen=True)
class Batch(Items):
    """What one training step sees, on the CPU."""

    latents: Float[Tensor, "batch c h w"]
    noise: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompts: Float[Tensor, "batch tokens width"] | Int[Tensor, "batch tokens"]


def load_data(bundle: ModelBundle, params: Teacher, *, dataset_dir: Path, cache_dir: Path) -> TeacherData:
    """Both splits, encoded by the untrained bundle; the encodings are kept in `cache_dir`."""
    train = load_split(dataset_dir, "train")
    validation = load_split(dataset_dir, "validation")
    train_prompts = _prompts(params, [example.caption for example in train])
    validation_prompts = _prompts(params, [example.caption for example in validation])
    picture_prompts = _prompts(params, params.validation_prompts)
    unique = unique_prompts([*train_prompts, *validation_prompts, *picture_prompts])
    row_of = {prompt: row for row, prompt in enumerate(unique)}

    def rows(prompts: list[str]) -> Tensor:
        return torch.tensor([row_of[prompt] for prompt in prompts])

    return TeacherData(
        train=_latents(bundle, train, flip=params.flip, cache_path=cache_dir / "latents_train.safetensors"),
        train_rows=rows(train_prompts),
        validation=_latents(bundle, validation, flip=False, cache_path=cache_dir / "latents_validation.safetensors"),
        validation_rows=rows(validation_prompts),
        picture_rows=rows(picture_prompts),
        prompts=_prompt_table(bundle, params, unique, cache_path=cache_dir / "prompts.safetensors"),
    )


def draw_batch(data: TeacherData, params: Teacher, *, step: int) -> Batch:
    """The batch of this step, a function of its arguments: pictures, mirrors, dropped captions, noise and timesteps."""
    items = torch.tensor(batch_indices(len(data.train.latents), params.batch_size, seed=params.seed, step=step))
    generator = step_generator(params.seed, step)
    noise = torch.randn(len(items), *data.train.latents.shape[1:], generator=generator)
    timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (len(items),), generator=generator)
    dropped = torch.rand(len(items), generator=generator) < params.caption_dropout
    mirrored = torch.rand(len(items), generator=generator) < 0.5
    latents = data.train.latents[items]
    if params.flip:
        latents = torch.where(mirrored.view(-1, 1, 1, 1), data.train.flipped[items], latents)
    rows = data.train_rows[items].masked_fill(dropped, 0)
    return Batch(latents, noise, timesteps, data.prompts[rows])


def validation_batches(data: TeacherData, *, batch_size: int, seed: int) -> list[Batch]:
    """Every validation picture at every one of VALIDATION_TIMESTEPS, with noise that depends on the seed alone."""
    num_timesteps = len(VALIDATION_TIMESTEPS)
    latents = data.validation.latents.repeat(num_timesteps, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=step_generator(seed, 0, VALIDATION_STREAM))
    timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat_interleave(len(data.validation.latents))
    rows = data.validation_rows.repeat(num_timesteps)
    parts = zip(*(item.split(batch_size) for item in (latents, noise, timesteps, rows)), strict=True)
    return [Batch(latents, noise, timesteps, data.prompts[rows]) for latents, noise, timesteps, rows in parts]


def _prompts(params: Teacher, captions: list[str]) -> list[str]:
    return [fill_template(params.prompt_template, caption) for caption in captions]


def _latents(bundle: ModelBundle, examples: list[Example], *, flip: bool, cache_path: Path) -> CachedLatents:
    return cached_latents(
        examples, flip=flip, vae=bundle.vae, encode=lambda pixels: encode_pixels(bundle, pixels), cache_path=cache_path
    )


def _prompt_table(bundle: ModelBundle, params: Teacher, unique: list[str], *, cache_path: Path) -> Tensor:
    if params.lora_text_encoder:
        return tokenize(bundle, unique)
    return cached_embeddings(
        unique,
        text_encoder=bundle.text_encoder,
        encode=lambda prompts: encode_prompts(bundle, prompts),
        cache_path=cache_path,
    )
