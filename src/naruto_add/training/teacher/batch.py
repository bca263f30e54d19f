"""The teacher's batches, with all random numbers of a step."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.config.schema import Teacher
from naruto_add.data.alternatives import epoch_draws
from naruto_add.data.batches import batch_indices, group_at
from naruto_add.runtime.compute import step_generator
from naruto_add.training.processes import Items
from naruto_add.training.teacher.dataset import Bucket, TeacherData

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)
VALIDATION_STREAM = 1


@dataclass(frozen=True)
class Batch(Items):
    """The inputs of a training or validation step, on the CPU; `prompts` are embeddings or token ids."""

    latents: Float[Tensor, "batch c h w"]
    noise: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompts: Float[Tensor, "batch tokens width"] | Int[Tensor, "batch tokens"]


def draw_batch(data: TeacherData, params: Teacher, *, step: int) -> Batch:
    """The batch of this step, a function of the arguments: pictures of one size, captions, flips, noise, timesteps."""
    group, group_step = group_at([len(each) for each in data.train], seed=params.seed, step=step)
    bucket = data.train[group]
    pictures = batch_indices(len(bucket), params.batch_size, seed=params.seed, step=group_step)
    items = torch.tensor(pictures)
    generator = step_generator(params.seed, step)
    noise = torch.randn(len(items), *bucket.latents.latents.shape[1:], generator=generator)
    timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (len(items),), generator=generator)
    is_dropped = torch.rand(len(items), generator=generator) < params.caption_dropout
    is_flipped = torch.rand(len(items), generator=generator) < 0.5
    latents = bucket.latents.latents[items]
    if params.flip:
        latents = torch.where(is_flipped.view(-1, 1, 1, 1), bucket.latents.flipped[items], latents)
    caption_draws = epoch_draws(pictures, len(bucket), seed=params.seed, step=group_step)
    rows = bucket.rows.drawn(items, caption_draws).masked_fill(is_dropped, 0)
    return Batch(latents, noise, timesteps, data.prompts[rows])


def validation_batches(data: TeacherData, *, batch_size: int, seed: int) -> list[Batch]:
    """Every validation picture at each of VALIDATION_TIMESTEPS, with noise that depends only on the seed.

    The pictures of a batch have one size.
    """
    generator = step_generator(seed, 0, VALIDATION_STREAM)
    return [
        batch
        for bucket in data.validation
        for batch in _validation_batches(bucket, data.prompts, batch_size=batch_size, generator=generator)
    ]


def _validation_batches(bucket: Bucket, prompts: Tensor, *, batch_size: int, generator: torch.Generator) -> list[Batch]:
    num_timesteps = len(VALIDATION_TIMESTEPS)
    latents = bucket.latents.latents.repeat(num_timesteps, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat_interleave(len(bucket))
    rows = bucket.rows.rows[:, 0].repeat(num_timesteps)
    parts = zip(*(item.split(batch_size) for item in (latents, noise, timesteps, rows)), strict=True)
    return [Batch(latents, noise, timesteps, prompts[rows]) for latents, noise, timesteps, rows in parts]
