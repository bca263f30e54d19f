"""What the student is warmed up on: teacher samples and the ways to them, in batches with all their randomness."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import batch_indices, step_generator
from naruto_add.conventions import NUM_TRAIN_TIMESTEPS
from naruto_add.data.latents import cached_embeddings
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, noise_pred_to_reach, step_shift
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler
from naruto_add.training.pool import Pool
from naruto_add.training.sharing import Items, main_first


@dataclass(frozen=True)
class Lesson:
    """All that a step needs beside the student: the frozen teacher, what it drew, and where the student will sample."""

    bundle: ModelBundle
    pool: Pool
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    negative_embeds: Float[Tensor, "1 tokens width"]
    guidance_scale: float
    sampler: Sampler
    """At the student's timesteps, by DDIM: samples are compared with the teacher's of the same noise, and samplers that
    re-noise forget it."""
    timesteps: list[int]

    @property
    def stride(self) -> int:
        """Timesteps that a step of the student takes."""
        return NUM_TRAIN_TIMESTEPS // len(self.timesteps)

    @property
    def alphas_cumprod(self) -> Float[Tensor, " timesteps"]:
        return alphas_cumprod(self.bundle.scheduler)


@dataclass(frozen=True)
class Batch(Items):
    """Inputs of one step, on the CPU, the noise to predict, and the weight of each item's error in it."""

    noisy_latents: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompt_embeds: Float[Tensor, "batch tokens width"]
    noise: Float[Tensor, "batch c h w"]
    weight: Float[Tensor, " batch"]


def make_lesson(
    bundle: ModelBundle,
    pool: Pool,
    *,
    guidance_scale: float,
    timesteps: list[int],
    cache_dir: Path,
) -> Lesson:
    """The lesson on this pool, or part of it; its prompts' embeddings are kept in `cache_dir`."""
    with main_first():
        prompt_embeds = cached_embeddings(
            pool.prompts,
            text_encoder=bundle.text_encoder,
            encode=lambda prompts: encode_prompts(bundle, prompts),
            cache_path=cache_dir / "prompts.safetensors",
        )
    scheduler = make_student_scheduler(bundle.scheduler, "ddim", len(timesteps))
    return Lesson(
        bundle=bundle,
        pool=pool,
        prompt_embeds=prompt_embeds,
        negative_embeds=encode_prompts(bundle, [""]),
        guidance_scale=guidance_scale,
        sampler=Sampler(scheduler, len(timesteps), guidance_scale=1.0),
        timesteps=timesteps,
    )


def draw_noised(lesson: Lesson, *, batch_size: int, seed: int, step: int) -> Batch:
    """Batch `step` of knowledge distillation: samples of the pool, noised afresh, at any timestep."""
    pool, items, generator = lesson.pool, *_items(lesson, batch_size, seed, step)
    timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (batch_size,), generator=generator)
    noise = torch.randn(pool.x0[items].shape, generator=generator)
    noisy_latents = add_noise(pool.x0[items], noise, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    return _batch(lesson, items, noisy_latents, timesteps, noise)


def draw_states(lesson: Lesson, *, batch_size: int, seed: int, step: int) -> Batch:
    """Batch `step` of the teacher's way: its states at the student's timesteps, and the noise whose DDIM step leads
    from each to the next of them.
    """
    pool, items, generator = lesson.pool, *_items(lesson, batch_size, seed, step)
    places = torch.randint(len(lesson.timesteps), (batch_size,), generator=generator)
    way = torch.cat([pool.noise[items, None], pool.states[items], pool.x0[items, None]], dim=1)
    rows = torch.arange(batch_size)
    timesteps = torch.tensor(lesson.timesteps)[places]
    noisy_latents, arrived = way[rows, places], way[rows, places + 1]
    noise = noise_pred_to_reach(
        arrived, noisy_latents, timesteps, stride=lesson.stride, alphas_cumprod=lesson.alphas_cumprod
    )
    return _batch(lesson, items, noisy_latents, timesteps, noise)


def _items(lesson: Lesson, batch_size: int, seed: int, step: int) -> tuple[Int[Tensor, " batch"], torch.Generator]:
    return torch.tensor(batch_indices(len(lesson.pool), batch_size, seed=seed, step=step)), step_generator(seed, step)


def _batch(lesson: Lesson, items: Tensor, noisy_latents: Tensor, timesteps: Tensor, noise: Tensor) -> Batch:
    """Weighted by the squared error that an error in epsilon makes in the next state."""
    shift = step_shift(timesteps, stride=lesson.stride, alphas_cumprod=lesson.alphas_cumprod)
    prompt_embeds = lesson.prompt_embeds[lesson.pool.caption_index[items]]
    return Batch(noisy_latents, timesteps, prompt_embeds, noise, shift.square())
