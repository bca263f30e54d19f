"""What `add` trains on: the pool of teacher samples, real latents, and batches of both with all their randomness."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from naruto_add.compute import batch_indices, step_generator
from naruto_add.conventions import NUM_TRAIN_TIMESTEPS
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels, encode_prompts, tokenize
from naruto_add.models.discriminator import pooled_embeds
from naruto_add.params import Add
from naruto_add.training.add.augment import NUM_DRAWS
from naruto_add.training.pool import Pool, split_pool
from naruto_add.training.sharing import Items

RENOISED_RANGE = (round(0.02 * NUM_TRAIN_TIMESTEPS), round(0.98 * NUM_TRAIN_TIMESTEPS))
"""t' of the teacher's step: outside, its prediction says nothing (all signal) or is amplified too far (all noise)."""

RESOLUTION_STREAM = 4
"""Keeps the draw of a step's picture size apart from what the batch is drawn with."""
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Pairs:
    """Teacher samples: the noise each was drawn from, what the guided teacher passed through at `add.timesteps` but the
    first (nothing, where it drew none), its x0, and its prompt's row.
    """

    noise: Float[Tensor, "pairs c h w"]
    states: Float[Tensor, "pairs inner c h w"]
    x0: Float[Tensor, "pairs c h w"]
    rows: Int[Tensor, " pairs"]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Pictures(Items):
    """Latents of training pictures, and their prompts' rows; none where only the teacher counts as real."""

    latents: Float[Tensor, "pictures c h w"]
    rows: Int[Tensor, " pictures"]


@dataclass(frozen=True)
class AddData:
    """Everything, on the CPU; rows count `prompts`, `prompt_embeds` and `pooled`, and row 0 is the empty prompt.

    `unseen` are pictures like those that the discriminator takes for real, but never trained on. `further` are teacher
    samples to train on as well, of other picture sizes; all else is of the base model's.
    """

    train: Pairs
    further: tuple[Pairs, ...]
    held_out: Pairs
    pictures: Pictures
    unseen: Pictures
    prompts: list[str]
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    pooled: Float[Tensor, "prompts width"]


@dataclass(frozen=True)
class Batch(Items):
    """What one training step sees, on the CPU: nothing in the step is random but the student itself.

    `step_index` counts `add.timesteps`. `fresh_noise` is for samplers that re-noise, one per step. Items whose
    `judged_weight` is not 0 are judged, real and fake at the same `judged_timesteps` with the same `judged_noise`; over
    the whole batch these weights have the mean 1. Items whose `renoised_weight` is not 0 get a
    guided teacher step; over the whole batch these weights have the mean 1. Where they are `misaligned`, which is all
    or none, reals are also shown with another item's caption. `crop_corner`, in [0, 1), says where in a picture its
    decoded square lies. `augment_draws` are those of `augmented`.
    """

    noise: Float[Tensor, "batch c h w"]
    states: Float[Tensor, "batch inner c h w"]
    x0: Float[Tensor, "batch c h w"]
    prompt_embeds: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch width"]
    prompt_rows: Int[Tensor, " batch"]
    step_index: Int[Tensor, " batch"]
    is_rollout: Bool[Tensor, " batch"]
    fresh_noise: Float[Tensor, "batch steps c h w"]
    real_latents: Float[Tensor, "batch c h w"]
    real_prompt_embeds: Float[Tensor, "batch tokens width"]
    real_pooled: Float[Tensor, "batch width"]
    judged_weight: Float[Tensor, " batch"]
    judged_timesteps: Int[Tensor, " batch"]
    judged_noise: Float[Tensor, "batch c h w"]
    renoised_weight: Float[Tensor, " batch"]
    renoised_timesteps: Int[Tensor, " batch"]
    renoised_noise: Float[Tensor, "batch c h w"]
    is_misaligned: Bool[Tensor, " batch"]
    misaligned_prompt_embeds: Float[Tensor, "batch tokens width"]
    misaligned_pooled: Float[Tensor, "batch width"]
    crop_corner: Float[Tensor, "batch 2"]
    augment_draws: Float[Tensor, "batch 6"]


def load_data(
    bundle: ModelBundle, pool: Pool, *, params: Add, prompt_template: str, dataset_dir: Path, cache_dir: Path
) -> AddData:
    """The pool, split, and what `add.real_source` needs beside it; encodings are kept in `cache_dir`."""
    examples = [] if params.real_source == "teacher" else load_split(dataset_dir, "train")
    unseen = load_split(dataset_dir, "validation") if examples and params.augment == "adaptive" else []
    captions = [fill_template(prompt_template, example.caption) for example in [*examples, *unseen]]
    prompts = unique_prompts([*pool.prompts, *captions])
    prompt_embeds = cached_embeddings(
        prompts,
        text_encoder=bundle.text_encoder,
        encode=lambda part: encode_prompts(bundle, part),
        cache_path=cache_dir / "prompts.safetensors",
    )
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    pool_rows = torch.tensor([row_of[prompt] for prompt in pool.prompts])
    train, held_out = (_pairs(part, pool_rows) for part in split_pool(pool))
    rows = torch.tensor([row_of[caption] for caption in captions], dtype=torch.long)
    edge = len(examples)
    pictures, others = (
        Pictures(_encode_pictures(bundle, part, cache_dir / name) if part else pool.x0[:0], part_rows)
        for name, part, part_rows in (
            ("latents.safetensors", examples, rows[:edge]),
            ("unseen.safetensors", unseen, rows[edge:]),
        )
    )
    return AddData(
        train=train,
        further=(),
        held_out=held_out,
        pictures=pictures,
        unseen=_with_pairs(others, held_out) if params.real_source != "dataset" else others,
        prompts=prompts,
        prompt_embeds=prompt_embeds,
        pooled=pooled_embeds(prompt_embeds, tokenize(bundle, prompts), eos_token_id=bundle.tokenizer.eos_token_id),
    )


def pairs_at(data: AddData, *, seed: int, step: int) -> Pairs:
    """What this step trains on: teacher samples of one picture size, every size with equal probability."""
    sizes = (data.train, *data.further)
    generator = step_generator(seed, step, RESOLUTION_STREAM)
    return sizes[int(torch.randint(len(sizes), (), generator=generator))]


def draw_batch(data: AddData, params: Add, *, step: int) -> Batch:
    """The batch of this step, a function of its arguments."""
    pairs = pairs_at(data, seed=params.seed, step=step)
    items = torch.tensor(batch_indices(len(pairs), params.batch_size, seed=params.seed, step=step))
    generator = step_generator(params.seed, step)
    latent_shape = pairs.noise.shape[1:]
    num_steps, size = len(params.timesteps), len(items)
    rows = pairs.rows[items]
    real_latents, real_rows = _draw_real(data.pictures, pairs, items, params, generator)
    other_rows = _other_rows(real_rows)
    judged = torch.randint(len(params.discriminator_timesteps), (size,), generator=generator)
    judged_weight = judged_weights(params)
    is_picture = (judged_weight > 0) & (params.judged_fraction < 1)
    step_index = _draw_step_index(params, size, step=step, generator=generator)
    return Batch(
        noise=pairs.noise[items],
        states=pairs.states[items],
        x0=pairs.x0[items],
        prompt_embeds=data.prompt_embeds[rows],
        pooled=data.pooled[rows],
        prompt_rows=rows,
        step_index=step_index.masked_fill(is_picture, num_steps - 1),
        is_rollout=_spread_over(~is_picture, params.rollout_fraction) | is_picture,
        fresh_noise=torch.randn(size, num_steps, *latent_shape, generator=generator),
        real_latents=real_latents,
        real_prompt_embeds=data.prompt_embeds[real_rows],
        real_pooled=data.pooled[real_rows],
        judged_weight=judged_weight,
        judged_timesteps=torch.tensor(params.discriminator_timesteps)[judged],
        judged_noise=torch.randn(size, *latent_shape, generator=generator),
        renoised_weight=_scattered(params.renoised_fraction if params.renoised_weight else 0.0, size),
        renoised_timesteps=torch.randint(*RENOISED_RANGE, (size,), generator=generator),
        renoised_noise=torch.randn(size, *latent_shape, generator=generator),
        is_misaligned=other_rows != real_rows,
        misaligned_prompt_embeds=data.prompt_embeds[other_rows],
        misaligned_pooled=data.pooled[other_rows],
        crop_corner=torch.rand(size, 2, generator=generator),
        augment_draws=torch.rand(size, NUM_DRAWS, generator=generator),
    )


def judged_weights(params: Add) -> Float[Tensor, " batch"]:
    """Which items of every batch are judged, alike and with the mean 1; 0 for the others."""
    return _scattered(params.judged_fraction, params.batch_size)


def draw_unseen(data: AddData, params: Add, *, step: int) -> Pictures:
    """As many pictures that the discriminator is not trained on as a batch has, a function of the arguments."""
    items = batch_indices(len(data.unseen.rows), params.batch_size, seed=params.seed, step=step)
    return Pictures(data.unseen.latents[items], data.unseen.rows[items])


def _spread_over(items: Bool[Tensor, " size"], fraction: float) -> Bool[Tensor, " size"]:
    """True for this fraction of these items, evenly spread, so that every part of the batch has its share."""
    counts = (torch.arange(int(items.sum()) + 1, dtype=torch.float64) * fraction + 1e-9).floor()
    return items.masked_scatter(items, counts[1:] > counts[:-1])


def _scattered(fraction: float, size: int) -> Float[Tensor, " size"]:
    """Weights of mean 1, alike for this fraction of the items and 0 for the others.

    The golden ratio scatters them: every part of the batch has its share. Its order is the same for all fractions, so
    that what is renoised is judged too where it is no more: the paper's loss is about the student's pictures.
    """
    num_chosen = round(fraction * size)
    weight = torch.zeros(size)
    chosen = (torch.arange(size, dtype=torch.float64) * GOLDEN_RATIO % 1).argsort()[:num_chosen]
    weight[chosen] = size / max(1, num_chosen)
    return weight


def _pairs(pool: Pool, pool_rows: Int[Tensor, " prompts"]) -> Pairs:
    return Pairs(pool.noise, pool.states, pool.x0, pool_rows[pool.caption_index])


def _with_pairs(pictures: Pictures, pairs: Pairs) -> Pictures:
    return Pictures(torch.cat([pictures.latents, pairs.x0]), torch.cat([pictures.rows, pairs.rows]))


def _encode_pictures(bundle: ModelBundle, examples: Sequence[Example], cache_path: Path) -> Tensor:
    return cached_latents(
        examples,
        flip=False,
        vae=bundle.vae,
        encode=lambda pixels: encode_pixels(bundle, pixels),
        cache_path=cache_path,
    ).latents


def _draw_step_index(params: Add, size: int, *, step: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """By the probabilities of the phase that the step lies in."""
    phases = params.timestep_probabilities
    if not phases:
        return torch.randint(len(params.timesteps), (size,), generator=generator)
    phase = min(step * len(phases) // params.num_steps, len(phases) - 1)
    return torch.multinomial(torch.tensor(phases[phase]), size, replacement=True, generator=generator)


def _other_rows(rows: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """For each item the next one's prompt, round the batch, that is another; its own where all prompts are equal."""
    values = rows.tolist()
    ahead = [values[item:] + values[:item] for item in range(len(values))]
    return torch.tensor([next((row for row in others if row != others[0]), others[0]) for others in ahead])


def _draw_real(
    pictures: Pictures, pairs: Pairs, items: Tensor, params: Add, generator: torch.Generator
) -> tuple[Float[Tensor, "batch c h w"], Int[Tensor, " batch"]]:
    """The teacher's samples of the fakes' own prompts, training pictures with theirs, or half of each."""
    from_teacher, teacher_rows = pairs.x0[items], pairs.rows[items]
    if params.real_source == "teacher":
        return from_teacher, teacher_rows
    picked = torch.randint(len(pictures.rows), (len(items),), generator=generator)
    from_dataset, dataset_rows = pictures.latents[picked], pictures.rows[picked]
    if params.real_source == "dataset":
        return from_dataset, dataset_rows
    is_picture = torch.rand(len(items), generator=generator) < 0.5
    latents = torch.where(is_picture.view(-1, 1, 1, 1), from_dataset, from_teacher)
    return latents, torch.where(is_picture, dataset_rows, teacher_rows)
