"""The batches of the student's warm-up, with all random numbers of a step."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.data.batches import batch_indices, group_at
from naruto_add.diffusion.noise import add_noise, noise_pred_to_reach, step_shift
from naruto_add.runtime.compute import step_generator
from naruto_add.training.pool import Pool
from naruto_add.training.processes import Items
from naruto_add.training.student.dataset import WarmupData


@dataclass(frozen=True)
class Batch(Items):
    """The inputs of a training step, on the CPU, the epsilon to predict, and the weight of each item's error in it."""

    noisy_latents: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompt_embeds: Float[Tensor, "batch tokens width"]
    noise: Float[Tensor, "batch c h w"]
    weight: Float[Tensor, " batch"]


def draw_knowledge_batch(data: WarmupData, *, batch_size: int, seed: int, step: int) -> Batch:
    """The batch of this step of knowledge distillation: pool samples with new noise, at any timestep."""
    pool, items, generator = _draw_items(data, batch_size, seed, step)
    timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (batch_size,), generator=generator)
    noise = torch.randn(pool.x0[items].shape, generator=generator)
    noisy_latents = add_noise(pool.x0[items], noise, timesteps, alphas_cumprod=data.alphas_cumprod)
    return _make_batch(data, pool.prompt_index[items], noisy_latents, timesteps, noise)


def draw_trajectory_batch(data: WarmupData, *, batch_size: int, seed: int, step: int) -> Batch:
    """The batch of this step of trajectory distillation.

    The inputs are states of the teacher's trajectories at the student's timesteps. The epsilon to predict is the one
    with which a DDIM step leads to the trajectory's state at the student's next timestep, or to x0 after the last.
    """
    pool, items, generator = _draw_items(data, batch_size, seed, step)
    places = torch.randint(len(data.timesteps), (batch_size,), generator=generator)
    trajectories = torch.cat([pool.noise[items, None], pool.states[items], pool.x0[items, None]], dim=1)
    rows = torch.arange(batch_size)
    timesteps = torch.tensor(data.timesteps)[places]
    noisy_latents, next_latents = trajectories[rows, places], trajectories[rows, places + 1]
    noise = noise_pred_to_reach(
        next_latents, noisy_latents, timesteps, stride=data.stride, alphas_cumprod=data.alphas_cumprod
    )
    return _make_batch(data, pool.prompt_index[items], noisy_latents, timesteps, noise)


def _draw_items(
    data: WarmupData, batch_size: int, seed: int, step: int
) -> tuple[Pool, Int[Tensor, " batch"], torch.Generator]:
    """The samples of this step, all of one size, the part of the pool they are in, and a generator for the rest."""
    pools = (data.pool, *data.pool.buckets)
    group, group_step = group_at([len(pool) for pool in pools], seed=seed, step=step)
    items = batch_indices(len(pools[group]), batch_size, seed=seed, step=group_step)
    return pools[group], torch.tensor(items), step_generator(seed, step)


def _make_batch(data: WarmupData, prompts: Tensor, noisy_latents: Tensor, timesteps: Tensor, noise: Tensor) -> Batch:
    """Each error in epsilon is weighted by the squared distance by which it moves the student's next state."""
    shift = step_shift(timesteps, stride=data.stride, alphas_cumprod=data.alphas_cumprod)
    return Batch(noisy_latents, timesteps, data.prompt_embeds[prompts], noise, shift.square())
