"""The teacher's batches, with all random numbers of a step."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.config.schema import Teacher
from naruto_add.data.alternatives import epoch_draws
from naruto_add.data.batches import batch_indices
from naruto_add.runtime.compute import step_generator
from naruto_add.training.processes import Items
from naruto_add.training.teacher.dataset import TeacherData

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
    """The batch of this step, a function of the arguments: pictures, captions, flips, noise and timesteps."""
    pictures = batch_indices(len(data.train.latents), params.batch_size, seed=params.seed, step=step)
    items = torch.tensor(pictures)
    generator = step_generator(params.seed, step)
    noise = torch.randn(len(items), *data.train.latents.shape[1:], generator=generator)
    timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (len(items),), generator=generator)
    is_dropped = torch.rand(len(items), generator=generator) < params.caption_dropout
    is_flipped = torch.rand(len(items), generator=generator) < 0.5
    latents = data.train.latents[items]
    if params.flip:
        latents = torch.where(is_flipped.view(-1, 1, 1, 1), data.train.flipped[items], latents)
    caption_draws = epoch_draws(pictures, len(data.train.latents), seed=params.seed, step=step)
    rows = data.train_rows.drawn(items, caption_draws).masked_fill(is_dropped, 0)
    return Batch(latents, noise, timesteps, data.prompts[rows])


def validation_batches(data: TeacherData, *, batch_size: int, seed: int) -> list[Batch]:
    """Every validation picture at each of VALIDATION_TIMESTEPS, with noise that depends only on the seed."""
    num_timesteps = len(VALIDATION_TIMESTEPS)
    latents = data.validation.latents.repeat(num_timesteps, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=step_generator(seed, 0, VALIDATION_STREAM))
    timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat_interleave(len(data.validation.latents))
    rows = data.validation_rows.repeat(num_timesteps)
    parts = zip(*(item.split(batch_size) for item in (latents, noise, timesteps, rows)), strict=True)
    return [Batch(latents, noise, timesteps, data.prompts[rows]) for latents, noise, timesteps, rows in parts]
