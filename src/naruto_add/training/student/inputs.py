"""What the student is warmed up on: teacher samples, and batches of them with all their randomness."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from naruto_add.compute import batch_indices, step_generator
from naruto_add.data.latents import cached_embeddings
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, noise_pred_from_x0, noisy_at_trained
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler
from naruto_add.losses.knowledge import over_nonzero, step_weight
from naruto_add.params import NUM_TRAIN_TIMESTEPS, StudentScheduler
from naruto_add.training.pool import Pool
from naruto_add.training.sharing import Items, main_first


@dataclass(frozen=True)
class Lesson:
    """All that a step needs beside the student: the frozen teacher, what it drew, and where the student will sample."""

    bundle: ModelBundle
    pool: Pool
    has_pairs: bool
    """Whether the pool's x0 were drawn from its noises."""
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    negative_embeds: Float[Tensor, "1 tokens width"]
    guidance_scale: float
    sampler: Sampler
    """The student's own."""
    timesteps: list[int]

    @property
    def alphas_cumprod(self) -> Float[Tensor, " timesteps"]:
        return alphas_cumprod(self.bundle.scheduler)


@dataclass(frozen=True)
class Batch(Items):
    """Inputs of one step, on the CPU, and the noise to predict; `is_coupled` marks stored pairs at trained timesteps.

    The weights are such that means over the whole batch are means over the items that count.
    """

    noisy_latents: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompt_embeds: Float[Tensor, "batch tokens width"]
    noise: Float[Tensor, "batch c h w"]
    is_coupled: Bool[Tensor, " batch"]
    task_weight: Float[Tensor, " batch"]
    output_weight: Float[Tensor, " batch"]


def make_lesson(
    bundle: ModelBundle,
    pool: Pool,
    *,
    has_pairs: bool,
    guidance_scale: float,
    student_scheduler: StudentScheduler,
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
    scheduler = make_student_scheduler(bundle.scheduler, student_scheduler, len(timesteps))
    return Lesson(
        bundle=bundle,
        pool=pool,
        has_pairs=has_pairs,
        prompt_embeds=prompt_embeds,
        negative_embeds=encode_prompts(bundle, [""]),
        guidance_scale=guidance_scale,
        sampler=Sampler(scheduler, len(timesteps), guidance_scale=1.0),
        timesteps=timesteps,
    )


def draw_batch(lesson: Lesson, *, batch_size: int, seed: int, step: int) -> Batch:
    """Batch `step`: every other item is a stored pair, if there are any, at a trained timestep; the others have fresh
    noise at any.
    """
    pool = lesson.pool
    generator = step_generator(seed, step)
    indices = torch.tensor(batch_indices(len(pool), batch_size, seed=seed, step=step))
    is_coupled = ((torch.arange(batch_size) + step) % 2 == 0) & lesson.has_pairs
    trained = torch.tensor(lesson.timesteps)[torch.randint(len(lesson.timesteps), (batch_size,), generator=generator)]
    anywhere = torch.randint(NUM_TRAIN_TIMESTEPS, (batch_size,), generator=generator)
    timesteps = trained.where(is_coupled, anywhere)
    x0, stored = pool.x0[indices], pool.noise[indices]
    fresh = torch.randn(x0.shape, generator=generator)
    coupled = noisy_at_trained(x0, stored, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    free = add_noise(x0, fresh, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    noisy_latents = coupled.where(is_coupled.view(-1, 1, 1, 1), free)
    noise = noise_pred_from_x0(noisy_latents, x0, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    stride = NUM_TRAIN_TIMESTEPS // len(lesson.timesteps)
    weight = step_weight(timesteps, stride=stride, alphas_cumprod=lesson.alphas_cumprod)
    return Batch(
        noisy_latents=noisy_latents,
        timesteps=timesteps,
        prompt_embeds=lesson.prompt_embeds[pool.caption_index[indices]],
        noise=noise,
        is_coupled=is_coupled,
        task_weight=over_nonzero(weight),
        output_weight=over_nonzero(weight * ~is_coupled),
    )
