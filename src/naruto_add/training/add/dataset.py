"""The data that `add` trains on: teacher samples from the pool, real latents, and embeddings of their prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.schema import Add
from naruto_add.data.alternatives import PromptRows, prompt_rows
from naruto_add.data.buckets import by_size
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.base_model import downsampling
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, tokenize
from naruto_add.models.discriminator import pooled_embeds
from naruto_add.training.pool import Pool, split_pool

SCORE_PICTURES = (32, 256)
"""Smallest and largest number of real pictures of the validation score; more would hardly reduce its error."""
SCORE_STREAM = 7
"""Separates the choice of these pictures from other draws of the same seed."""


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
class Bucket:
    """Teacher samples and training pictures of one aspect bucket."""

    pairs: Pairs
    real: RealLatents


@dataclass(frozen=True)
class AddData:
    """All data, on the CPU. Row i of `prompts`, `prompt_embeds` and `pooled` is one prompt; row 0 is the empty one.

    `held_out` are the held-out pool samples. `other_sizes` are pairs of the sizes in `add.resolutions_px`, and
    `buckets` those of the aspect buckets that are not square, which are trained on too; everything else has the base
    model's size. `real_pixels`, in [-1, 1], are the pictures that the validation score compares with: of the validation
    split, filled up with training pictures if it is small (see `score_examples`).
    """

    train: Pairs
    held_out: Pairs
    other_sizes: tuple[Pairs, ...]
    real: RealLatents
    real_pixels: Float[Tensor, "pictures 3 height width"]
    prompts: list[str]
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    pooled: Float[Tensor, "prompts width"]
    buckets: tuple[Bucket, ...] = ()


def load_data(
    bundle: ModelBundle, pool: Pool, *, params: Add, prompt_template: str, dataset_dir: Path, cache_dir: Path
) -> AddData:
    """The pool, pictures for the score and, unless `add.real_source` is teacher, the training split; no `other_sizes`.

    Latents and embeddings are cached in `cache_dir`.
    """
    needs_pictures = params.real_source != "teacher"
    validation, pictures = (
        load_split(dataset_dir, split, prompt_template=prompt_template) for split in ("validation", "train")
    )
    examples = pictures if needs_pictures else []
    prompts = unique_prompts([*pool.prompts, *(prompt for example in examples for prompt in example.prompts)])
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    prompt_embeds = cached_embeddings(
        prompts,
        text_encoder=bundle.text_encoder,
        encode=lambda part: encode_prompts(bundle, part),
        cache_dir=cache_dir / "prompts",
    )
    train, held_out = (pairs_of(part, row_of) for part in split_pool(pool))
    return AddData(
        train=train,
        held_out=held_out,
        other_sizes=(),
        real=_real(bundle, examples, row_of, pool=pool, cache_dir=cache_dir / "latents"),
        real_pixels=load_pixels(score_examples(validation, pictures, seed=params.seed)),
        prompts=prompts,
        prompt_embeds=prompt_embeds,
        pooled=pooled_embeds(prompt_embeds, tokenize(bundle, prompts), eos_token_id=bundle.tokenizer.eos_token_id),
        buckets=tuple(_buckets(bundle, pool, examples, row_of, cache_dir=cache_dir)),
    )


def _real(
    bundle: ModelBundle, examples: list[Example], row_of: dict[str, int], *, pool: Pool, cache_dir: Path
) -> RealLatents:
    """The pictures of these examples, which have the size of the pool's samples."""
    latents = pool.x0[:0]
    if examples:
        latents = cached_latents(
            examples,
            flip=False,
            vae=bundle.vae,
            encode=lambda pixels: encode_pixels(bundle, pixels),
            cache_dir=cache_dir,
        ).latents
    return RealLatents(latents, prompt_rows(examples, row_of))


def _buckets(
    bundle: ModelBundle, pool: Pool, examples: list[Example], row_of: dict[str, int], *, cache_dir: Path
) -> Iterator[Bucket]:
    """The pool's aspect buckets, each with the examples of its size; none of `examples` if they are not needed."""
    groups = by_size(examples) if pool.buckets else {}
    for part in pool.buckets:
        height, width = (side * downsampling(bundle.vae.config) for side in part.x0.shape[-2:])
        own_dir = cache_dir / f"latents_{width}x{height}"
        real = _real(bundle, groups.get((width, height), []), row_of, pool=part, cache_dir=own_dir)
        yield Bucket(pairs_of(part, row_of), real)


def score_examples(validation: Sequence[Example], train: Sequence[Example], *, seed: int) -> list[Example]:
    """The pictures that the validation score compares with: of the validation split, on which nothing is trained.

    These are all of its pictures, or a random part of `SCORE_PICTURES[1]`. If it has fewer than `SCORE_PICTURES[0]`, a
    random part of the training pictures is added: with few pictures, the error of the distance would hide most
    differences. The score then partly measures how well training pictures are remembered.
    """
    least, most = SCORE_PICTURES
    chosen = _random_part(validation, most, seed)
    return [*chosen, *_random_part(train, max(0, least - len(chosen)), seed)]


def _random_part(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
    """At most `size` of the examples, in their order."""
    order = np.random.default_rng((seed, SCORE_STREAM)).permutation(len(examples))
    return [examples[index] for index in sorted(order[:size].tolist())]


def pairs_of(pool: Pool, row_of: dict[str, int]) -> Pairs:
    """The pool's samples; `row_of` maps prompts to their rows in `AddData.prompts`."""
    rows = torch.tensor([row_of[prompt] for prompt in pool.prompts])
    return Pairs(pool.noise, pool.states, pool.x0, rows[pool.prompt_index])
