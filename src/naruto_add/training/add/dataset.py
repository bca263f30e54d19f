"""The data that `add` trains on: teacher samples from the pool, real latents, and embeddings of their prompts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.schema import Add
from naruto_add.data.alternatives import PromptRows, prompt_rows
from naruto_add.data.dataset import load_split
from naruto_add.data.latents import cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, tokenize
from naruto_add.models.discriminator import pooled_embeds
from naruto_add.training.pool import Pool, split_pool

SCORE_PICTURES = (32, 256)
"""Real pictures for the validation score, at least and at most: the error of its distance hardly falls beyond."""


@dataclass(frozen=True)
class Pairs:
    """Teacher samples: initial noise, trajectory, x0, and the row of the prompt in `AddData.prompts`.

    `states` are the teacher's x_t at the student's timesteps. The first is missing: at it, x_t is the noise.
    """

    noise: Float[Tensor, "pairs c h w"]
    states: Float[Tensor, "pairs inner c h w"]
    x0: Float[Tensor, "pairs c h w"]
    rows: Int[Tensor, " pairs"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_student_steps(self) -> int:
        """The number of the student's timesteps."""
        return self.states.shape[1] + 1


@dataclass(frozen=True)
class RealLatents:
    """Scaled latents of the training pictures, and the rows of their prompts; empty if `add.real_source` is teacher."""

    latents: Float[Tensor, "pictures c h w"]
    rows: PromptRows


@dataclass(frozen=True)
class AddData:
    """All data, on the CPU. Row i of `prompts`, `prompt_embeds` and `pooled` is one prompt; row 0 is the empty one.

    `held_out` pairs are for the validation score and never trained on. `other_sizes` are pairs of other picture sizes,
    which are trained on too; everything else has the base model's size. `real_pixels`, in [-1, 1], are those that
    the validation score compares with: of the validation split, which nothing is trained on.
    """

    train: Pairs
    held_out: Pairs
    other_sizes: tuple[Pairs, ...]
    real: RealLatents
    real_pixels: Float[Tensor, "pictures 3 height width"]
    prompts: list[str]
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    pooled: Float[Tensor, "prompts width"]


def load_data(
    bundle: ModelBundle, pool: Pool, *, params: Add, prompt_template: str, dataset_dir: Path, cache_dir: Path
) -> AddData:
    """The pool, the validation split and, unless `add.real_source` is teacher, the training split; of one picture size.

    Latents and embeddings are cached in `cache_dir`.
    """
    needs_pictures = params.real_source != "teacher"
    examples = load_split(dataset_dir, "train", prompt_template=prompt_template) if needs_pictures else []
    prompts = unique_prompts([*pool.prompts, *(prompt for example in examples for prompt in example.prompts)])
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    prompt_embeds = cached_embeddings(
        prompts,
        text_encoder=bundle.text_encoder,
        encode=lambda part: encode_prompts(bundle, part),
        cache_path=cache_dir / "prompts.safetensors",
    )
    real_latents = pool.x0[:0]
    if examples:
        real_latents = cached_latents(
            examples,
            flip=False,
            vae=bundle.vae,
            encode=lambda pixels: encode_pixels(bundle, pixels),
            cache_path=cache_dir / "latents.safetensors",
        ).latents
    train, held_out = (pairs_of(part, row_of) for part in split_pool(pool))
    return AddData(
        train=train,
        held_out=held_out,
        other_sizes=(),
        real=RealLatents(real_latents, prompt_rows(examples, row_of)),
        real_pixels=_score_pixels(dataset_dir),
        prompts=prompts,
        prompt_embeds=prompt_embeds,
        pooled=pooled_embeds(prompt_embeds, tokenize(bundle, prompts), eos_token_id=bundle.tokenizer.eos_token_id),
    )


def _score_pixels(dataset_dir: Path) -> Float[Tensor, "pictures 3 height width"]:
    """The validation split, or a part of a large one; a small one is filled up with training pictures."""
    validation, train = (load_split(dataset_dir, name, prompt_template="{caption}") for name in ("validation", "train"))
    num_missing = max(0, SCORE_PICTURES[0] - len(validation))
    return load_pixels([*validation, *train[:num_missing]][: SCORE_PICTURES[1]])


def pairs_of(pool: Pool, row_of: dict[str, int]) -> Pairs:
    """The pool's samples; `row_of` maps prompts to their rows in `AddData.prompts`."""
    rows = torch.tensor([row_of[prompt] for prompt in pool.prompts])
    return Pairs(pool.noise, pool.states, pool.x0, rows[pool.prompt_index])
