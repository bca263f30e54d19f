"""The batch of a training step, with all of the step's randomness."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.config.schema import Add
from naruto_add.data.batches import GOLDEN_RATIO, batch_indices, group_at
from naruto_add.runtime.compute import step_generator
from naruto_add.training.add.augment import NUM_SHIFT_DRAWS
from naruto_add.training.add.dataset import AddData, Pairs, RealLatents
from naruto_add.training.processes import Items

RENOISED_RANGE = (round(0.02 * NUM_TRAIN_TIMESTEPS), round(0.98 * NUM_TRAIN_TIMESTEPS))
"""Timesteps of the renoised loss. Below, the teacher's prediction adds nothing; above, its error in x0 is too large."""
RENOISED_FRACTION = 0.25
"""Of a batch, items that have a renoised loss; each costs two calls of the teacher."""
CAPTION_STREAM = 5
"""Separates the draw of captions from the draws of a step's batch, which it must not shift."""


@dataclass(frozen=True)
class Batch(Items):
    """The inputs of one training step.

    - `step_index` is the index of the student's timestep. The student's input is its own state for items with
      `is_rollout`, else the teacher's. `fresh_noise` is for schedulers that add noise, one per timestep.
    - The discriminators are shown the items with a `discriminator_weight` above 0, real and generated latents with the
      same `discriminator_timesteps` and `discriminator_noise`. Items with a `renoised_weight` above 0 have a renoised
      loss. The mean of each weight over the whole batch is 1.
    - `crop_corner` and `shift_draws`, in [0, 1), are the randomness of `decode_crops` and `random_shift`.
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
    discriminator_weight: Float[Tensor, " batch"]
    discriminator_timesteps: Int[Tensor, " batch"]
    discriminator_noise: Float[Tensor, "batch c h w"]
    renoised_weight: Float[Tensor, " batch"]
    renoised_timesteps: Int[Tensor, " batch"]
    renoised_noise: Float[Tensor, "batch c h w"]
    crop_corner: Float[Tensor, "batch 2"]
    shift_draws: Float[Tensor, "batch draws"]


def pairs_at(data: AddData, *, seed: int, step: int) -> tuple[Pairs, int]:
    """The pairs that this step trains on, of one picture size, and the number of their batch for `batch_indices`.

    The pool and each of `other_sizes` have equal shares of the steps; the pool's aspect buckets share its steps by the
    numbers of their samples.
    """
    size, number = group_at([1] * (1 + len(data.other_sizes)), seed=seed, step=step)
    if size > 0:
        return data.other_sizes[size - 1], number
    buckets = (data.train, *(bucket.pairs for bucket in data.buckets))
    bucket, number = group_at([len(each) for each in buckets], seed=seed, step=number)
    return buckets[bucket], number


def draw_batch(data: AddData, params: Add, *, step: int) -> Batch:
    """The batch of this step, on the CPU; it depends only on the arguments."""
    pairs, number = pairs_at(data, seed=params.seed, step=step)
    items = torch.tensor(batch_indices(len(pairs), params.batch_size, seed=params.seed, step=number))
    generator = step_generator(params.seed, step)
    size, num_steps, latent_shape = len(items), pairs.num_student_steps, pairs.noise.shape[1:]
    rows = pairs.rows[items]
    real_latents, real_rows = _draw_real(data, pairs, items, params, generator, step)
    timestep_index = torch.randint(len(params.discriminator_timesteps), (size,), generator=generator)
    discriminator_weight = discriminator_weights(params)
    # With a fraction below 1, the discriminators are shown only final pictures: rollouts up to the last timestep.
    is_final = (discriminator_weight > 0) & (params.discriminator_fraction < 1)
    step_index = torch.randint(num_steps, (size,), generator=generator)
    return Batch(
        noise=pairs.noise[items],
        states=pairs.states[items],
        x0=pairs.x0[items],
        prompt_embeds=data.prompt_embeds[rows],
        pooled=data.pooled[rows],
        prompt_rows=rows,
        step_index=step_index.masked_fill(is_final, num_steps - 1),
        is_rollout=evenly_spread(~is_final, params.rollout_fraction) | is_final,
        fresh_noise=torch.randn(size, num_steps, *latent_shape, generator=generator),
        real_latents=real_latents,
        real_prompt_embeds=data.prompt_embeds[real_rows],
        real_pooled=data.pooled[real_rows],
        discriminator_weight=discriminator_weight,
        discriminator_timesteps=torch.tensor(params.discriminator_timesteps)[timestep_index],
        discriminator_noise=torch.randn(size, *latent_shape, generator=generator),
        renoised_weight=renoised_weights(params),
        renoised_timesteps=torch.randint(*RENOISED_RANGE, (size,), generator=generator),
        renoised_noise=torch.randn(size, *latent_shape, generator=generator),
        crop_corner=torch.rand(size, 2, generator=generator),
        shift_draws=torch.rand(size, NUM_SHIFT_DRAWS, generator=generator),
    )


def discriminator_weights(params: Add) -> Float[Tensor, " batch"]:
    """Weights of mean 1, equal for the items of a batch that the discriminator is shown and 0 for the others."""
    return _weights(_is_shown(params))


def renoised_weights(params: Add) -> Float[Tensor, " batch"]:
    """Weights of mean 1, equal for the items of a batch that have a renoised loss and 0 for the others.

    The smaller of the two sets, of these items and of those that the discriminators are shown, is in the larger one, so
    that the renoised loss is computed on final pictures too.
    """
    is_shown = _is_shown(params)
    num = round(RENOISED_FRACTION * params.batch_size) if params.renoised_weight else 0
    num_shown = int(is_shown.sum())
    if num <= num_shown:
        return _weights(scattered(is_shown, num))
    return _weights(is_shown | scattered(~is_shown, num - num_shown))


def evenly_spread(items: Bool[Tensor, " size"], fraction: float) -> Bool[Tensor, " size"]:
    """True for this fraction of `items`, at even distances, so that every part of a batch contains its share."""
    counts = (torch.arange(int(items.sum()) + 1, dtype=torch.float64) * fraction + 1e-9).floor()
    return items.masked_scatter(items, counts[1:] > counts[:-1])


def scattered(items: Bool[Tensor, " size"], num: int) -> Bool[Tensor, " size"]:
    """True for `num` of `items`: one of each of `num` equal groups of neighbours, so that parts of a batch share.

    Multiples of the golden ratio choose the place in the group. At even distances, the choice would coincide with that
    of `evenly_spread`, and for example only rollouts would have a renoised loss.
    """
    (positions,) = torch.where(items)
    chosen = torch.zeros_like(items)
    if num:
        edges = torch.arange(num + 1) * len(positions) // num
        fractions = torch.arange(1, num + 1, dtype=torch.float64) * GOLDEN_RATIO % 1
        chosen[positions[edges[:-1] + (fractions * edges.diff()).long()]] = True
    return chosen


def _is_shown(params: Add) -> Bool[Tensor, " batch"]:
    size = params.batch_size
    return scattered(torch.ones(size, dtype=torch.bool), round(params.discriminator_fraction * size))


def _weights(is_chosen: Bool[Tensor, " size"]) -> Float[Tensor, " size"]:
    return is_chosen * (len(is_chosen) / max(1, int(is_chosen.sum())))


def _draw_real(
    data: AddData, pairs: Pairs, items: Tensor, params: Add, generator: torch.Generator, step: int
) -> tuple[Float[Tensor, "batch c h w"], Int[Tensor, " batch"]]:
    """Latents and prompts' rows: the teacher's samples of these items, random training pictures, or half of each.

    For `add.resolutions_px` they are always the teacher's: the data set has no pictures of these sizes.
    """
    from_teacher, teacher_rows = pairs.x0[items], pairs.rows[items]
    real = _real_of(data, pairs)
    if params.real_source == "teacher" or real is None:
        return from_teacher, teacher_rows
    picked = torch.randint(len(real.rows), (len(items),), generator=generator)
    caption_draws = torch.rand(len(items), generator=step_generator(params.seed, step, CAPTION_STREAM))
    from_dataset, dataset_rows = real.latents[picked], real.rows.drawn(picked, caption_draws)
    if params.real_source == "dataset":
        return from_dataset, dataset_rows
    is_picture = torch.rand(len(items), generator=generator) < 0.5
    latents = torch.where(is_picture.view(-1, 1, 1, 1), from_dataset, from_teacher)
    return latents, torch.where(is_picture, dataset_rows, teacher_rows)


def _real_of(data: AddData, pairs: Pairs) -> RealLatents | None:
    """The training pictures of the pairs' size; None for a size of `add.resolutions_px`."""
    if pairs is data.train:
        return data.real
    return next((bucket.real for bucket in data.buckets if bucket.pairs is pairs), None)
