"""The student before adversarial training: blocks removed, then warmed up by knowledge distillation on teacher samples.

Departures from BK-SDM (Kim et al. 2023), which distils a student for 25 guided steps from real pictures:
- half of each batch is at the timesteps that the student will be sampled at, and there x_t is made of a stored sample
  and *the noise it was drawn from* (pure noise at t = 999). Its target is the noise that this pair implies: the student
  learns where the teacher's whole trajectory ends, along straight lines that few steps can follow (reflow, Liu et al.
  2022), not the average of all pictures that the noise may become;
- the other half has fresh noise at any timestep; there the output target is the teacher's *guided* prediction, so that
  guidance is built in. Its scale is fixed: the prediction is linear in the scale, so a range would have the same
  optimum as its mean, only with more variance;
- errors in epsilon are weighted by how far they move the student's sample, features by the power of the teacher's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from jaxtyping import Bool, Float, Int
from torch import Tensor

from naruto_add.compute import batch_indices, make_accelerator, step_generator
from naruto_add.data.latents import cached_embeddings
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, load_pipeline_folder, load_unet, save_unet
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, noise_pred_from_x0, noisy_at_trained
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred, sample_latents, student_sampler
from naruto_add.files import new_folder, write_json
from naruto_add.losses.knowledge import feature_loss, relative_sample_error, step_weight, weighted_error
from naruto_add.models.student import matching_blocks, num_parameters, recorded_outputs, shrink_unet
from naruto_add.params import NUM_TRAIN_TIMESTEPS, Base, Sampling, Student
from naruto_add.training.loop import Best, Ema, FiniteGuard, Stateful, TrainableState, run_steps, warmup_schedule
from naruto_add.training.pool import Pool, draw_pool, pool_prompts, split_pool

_SCORING_STREAM = 1
_ADVICE = "lower student.learning_rate, or use base.precision fp32"


@dataclass(frozen=True)
class Batch:
    """Inputs of one step and the noise to predict; `is_coupled` marks the stored pairs at trained timesteps."""

    noisy_latents: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompt_embeds: Float[Tensor, "batch tokens width"]
    noise: Float[Tensor, "batch c h w"]
    is_coupled: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Losses:
    """The three parts, unweighted."""

    task: Float[Tensor, ""]
    output: Float[Tensor, ""]
    feature: Float[Tensor, ""]

    def total(self, params: Student) -> Float[Tensor, ""]:
        """Their weighted sum."""
        return (
            params.task_weight * self.task + params.output_weight * self.output + params.feature_weight * self.feature
        )


@dataclass(frozen=True)
class Lesson:
    """All that a step needs beside the student: the frozen teacher, what it drew, and where the student will sample."""

    bundle: ModelBundle
    pool: Pool
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    negative_embeds: Float[Tensor, "1 tokens width"]
    sampling: Sampling
    timesteps: list[int]

    @property
    def alphas_cumprod(self) -> Float[Tensor, " timesteps"]:
        return alphas_cumprod(self.bundle.scheduler)


def build_student(
    teacher_dir: Path,
    dataset_dir: Path,
    *,
    params: Student,
    sampling: Sampling,
    base: Base,
    prompt_template: str,
    timesteps: list[int],
    out_dir: Path,
    pool_path: Path,
    checkpoint_dir: Path,
    curves_path: Path,
    metrics_path: Path,
) -> None:
    """Write the student's U-Net (fp32), the pool, the loss curves and the metrics.

    With `params.num_steps` 0 the student keeps its inherited weights. The weights kept are the averaged ones that score
    best on the held-out part of the pool, the inherited ones included.
    """
    bundle = load_pipeline_folder(teacher_dir, precision=base.precision)
    inherited = load_unet(teacher_dir / "unet", precision="fp32")
    student = shrink_unet(inherited, params.architecture).to(bundle.device)
    pool = draw_pool(
        bundle,
        prompts=pool_prompts(dataset_dir, prompt_template),
        size=params.pool_size,
        num_steps=params.pool_steps,
        guidance_scale=sampling.guidance_scale,
        seed=params.seed,
        path=pool_path,
        checkpoint_dir=checkpoint_dir,
    )
    training, held_out = (_lesson(bundle, part, sampling, timesteps, checkpoint_dir) for part in split_pool(pool))
    accelerator = make_accelerator(base.precision)
    constant = training.pool.x0.mean(dim=0).to(bundle.device)
    score = _scorer(held_out, constant, params.seed, accelerator)
    start = score(student)
    best = _warm_up(student, training, score, params, accelerator, checkpoint_dir, curves_path)
    best.copy_to(student)
    with new_folder(out_dir) as folder:
        save_unet(student, folder)
    write_json(metrics_path, {**_sizes(bundle.unet, student), **_outcome(best, start, score(student), len(pool))})


def draw_batch(lesson: Lesson, *, batch_size: int, seed: int, step: int) -> Batch:
    """Batch `step`: every other item is a stored pair at a trained timestep, the others have fresh noise at any."""
    pool, device = lesson.pool, lesson.bundle.device
    generator = step_generator(seed, step)
    indices = torch.tensor(batch_indices(len(pool), batch_size, seed=seed, step=step))
    is_coupled = (torch.arange(batch_size) + step) % 2 == 0
    trained = torch.tensor(lesson.timesteps)[torch.randint(len(lesson.timesteps), (batch_size,), generator=generator)]
    anywhere = torch.randint(NUM_TRAIN_TIMESTEPS, (batch_size,), generator=generator)
    timesteps = trained.where(is_coupled, anywhere)
    x0, stored = pool.x0[indices], pool.noise[indices]
    fresh = torch.randn(x0.shape, generator=generator)
    coupled = noisy_at_trained(x0, stored, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    free = add_noise(x0, fresh, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    noisy_latents = coupled.where(is_coupled.view(-1, 1, 1, 1), free)
    noise = noise_pred_from_x0(noisy_latents, x0, timesteps, alphas_cumprod=lesson.alphas_cumprod)
    return Batch(
        noisy_latents=noisy_latents.to(device),
        timesteps=timesteps.to(device),
        prompt_embeds=lesson.prompt_embeds[pool.caption_index[indices]].to(device),
        noise=noise.to(device),
        is_coupled=is_coupled.to(device),
    )


def knowledge_losses(student: UNet2DConditionModel, batch: Batch, lesson: Lesson) -> Losses:
    """Task, output and feature loss of the student on this batch; the teacher runs once, with no gradient."""
    pairs = matching_blocks(student, lesson.bundle.unet)
    with recorded_outputs(student, [mine for mine, _ in pairs]) as student_features:
        student_pred = noise_pred(student, batch.noisy_latents, batch.timesteps, batch.prompt_embeds)
    teacher_pred, teacher_features = _teacher_view(batch, lesson, [its for _, its in pairs])
    stride = NUM_TRAIN_TIMESTEPS // len(lesson.timesteps)
    weight = step_weight(batch.timesteps, stride=stride, alphas_cumprod=lesson.alphas_cumprod)
    return Losses(
        task=weighted_error(student_pred, batch.noise, weight),
        output=weighted_error(student_pred, teacher_pred, weight * ~batch.is_coupled),
        feature=feature_loss([student_features[mine] for mine, _ in pairs], teacher_features),
    )


@torch.no_grad()
def _teacher_view(batch: Batch, lesson: Lesson, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """The guided prediction, and the features of the pass with the prompt, which is the later half of the batch."""
    with recorded_outputs(lesson.bundle.unet, names) as features:
        teacher_pred = guided_noise_pred(
            lesson.bundle.unet,
            batch.noisy_latents,
            batch.timesteps,
            prompt_embeds=batch.prompt_embeds,
            negative_embeds=lesson.negative_embeds,
            guidance_scale=lesson.sampling.guidance_scale,
        )
    return teacher_pred, [features[name][-len(batch.timesteps) :] for name in names]


def _lesson(bundle: ModelBundle, pool: Pool, sampling: Sampling, timesteps: list[int], checkpoint_dir: Path) -> Lesson:
    prompt_embeds = cached_embeddings(
        pool.prompts,
        text_encoder=bundle.text_encoder,
        encode=lambda prompts: encode_prompts(bundle, prompts),
        cache_path=checkpoint_dir / "prompts.safetensors",
    )
    return Lesson(bundle, pool, prompt_embeds, encode_prompts(bundle, [""]), sampling, timesteps)


Score = Callable[[UNet2DConditionModel], dict[str, float]]


def _scorer(held_out: Lesson, constant: Tensor, seed: int, accelerator: Accelerator) -> Score:
    """Samples from the held-out noises at the student's own steps, against what the teacher made of the same noises."""
    pool, bundle = held_out.pool, held_out.bundle
    sampler = student_sampler(bundle, held_out.sampling, len(held_out.timesteps))
    x0_teacher = pool.x0.to(bundle.device)

    def score(student: UNet2DConditionModel) -> dict[str, float]:
        with accelerator.autocast():
            x0_student = sample_latents(
                student,
                noise=pool.noise.to(bundle.device),
                prompt_embeds=held_out.prompt_embeds[pool.caption_index].to(bundle.device),
                negative_embeds=held_out.negative_embeds,
                sampler=sampler,
                generator=step_generator(seed, 0, _SCORING_STREAM),
            )
        return {
            "sample_mse": (x0_student - x0_teacher).square().mean().item(),
            "relative_sample_error": relative_sample_error(x0_student, x0_teacher, constant=constant),
        }

    return score


def _warm_up(
    student: UNet2DConditionModel,
    lesson: Lesson,
    score: Score,
    params: Student,
    accelerator: Accelerator,
    checkpoint_dir: Path,
    curves_path: Path,
) -> Best:
    adamw = torch.optim.AdamW(student.parameters(), lr=params.learning_rate)
    schedule = warmup_schedule(adamw, params.warmup_steps)
    optimizer: Any = accelerator.prepare(adamw)
    ema, best, guard = Ema(student, params.ema_decay), Best(), FiniteGuard(_ADVICE)

    def train_step(step: int) -> dict[str, float]:
        batch = draw_batch(lesson, batch_size=params.batch_size, seed=params.seed, step=step)
        with accelerator.autocast():
            losses = knowledge_losses(student, batch, lesson)
        loss = losses.total(params)
        optimizer.zero_grad()
        accelerator.backward(loss)
        grad_norm = accelerator.clip_grad_norm_(student.parameters(), params.max_grad_norm)
        # The scaler of fp16 skips such a step by itself, and must see it to lower its scale.
        if guard.allows(grad_norm) or accelerator.scaler is not None:
            optimizer.step()
        schedule.step()
        ema.update()
        parts = {"loss": loss, "task": losses.task, "output": losses.output, "feature": losses.feature}
        return {**{name: value.item() for name, value in parts.items()}, "grad_norm": float(grad_norm)}

    def validate(num_done: int) -> dict[str, float]:
        with ema.applied():
            scores = score(student)
        best.offer(scores["sample_mse"], num_done, ema.average())
        return scores

    state: dict[str, Stateful] = {
        "student": TrainableState(student),
        "optimizer": optimizer,
        "schedule": schedule,
        "ema": ema,
        "best": best,
        "guard": guard,
    }
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler
    run_steps(
        train_step,
        name="student",
        num_steps=params.num_steps,
        state=state,
        validate=validate,
        validation_every_steps=params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
    )
    return best


def _sizes(teacher_unet: UNet2DConditionModel, student: UNet2DConditionModel) -> dict[str, float]:
    teacher_params, student_params = num_parameters(teacher_unet), num_parameters(student)
    return {
        "teacher_params": teacher_params,
        "student_params": student_params,
        "params_ratio": student_params / teacher_params,
    }


def _outcome(best: Best, start: dict[str, float], end: dict[str, float], pool_size: int) -> dict[str, float]:
    return {
        "pool_size": pool_size,
        "best_step": best.step,
        **end,
        **{f"{name}_start": value for name, value in start.items()},
    }
