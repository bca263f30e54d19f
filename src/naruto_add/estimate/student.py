"""The tasks of the stage `student`."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from naruto_add.config.schema import Params
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.estimate.counts import num_validations
from naruto_add.estimate.drawing import drawing, student_sampling
from naruto_add.estimate.fake import materialized, measuring
from naruto_add.estimate.networks import Shapes, new_unet
from naruto_add.estimate.task import (
    Task,
    autocast,
    frozen,
    guided,
    new_student,
    training_state,
    weight_bytes,
    zero_timesteps,
)
from naruto_add.losses.knowledge import feature_loss
from naruto_add.models.student import matching_blocks, recorded_outputs
from naruto_add.training.draw_pool import CHUNK
from naruto_add.training.pool import num_held_out
from naruto_add.training.student.trainer import NUM_SCORED


def student_tasks(params: Params, shapes: Shapes) -> Iterator[Task]:
    """Drawing the pool, the phases of the warm-up, and validations, the first of which have the teacher too.

    In the phase after knowledge distillation, the teacher's U-Net is in CPU memory.
    """
    student, sampling = params.student, params.sampling
    num_calls = student.pool_size * sampling.pool_steps
    precision = params.base.frozen_precision
    yield drawing("student", "draw the pool", shapes, precision=precision, batch=CHUNK, num_calls=num_calls)
    if min(student.knowledge_steps, student.num_steps) > 0:
        yield warm_up_task(params, shapes, is_knowledge=True)
    if student.knowledge_steps < student.num_steps:
        yield warm_up_task(params, shapes, is_knowledge=False)
    # scored before the training and after it too
    rounds = num_validations(student.num_steps, student.validation_every_steps) + 2
    num_samples = min(NUM_SCORED, num_held_out(student.pool_size))
    yield student_sampling(
        "student",
        params,
        shapes,
        student.optimizer,
        num_calls=rounds * num_samples * sampling.student_steps,
        others=weight_bytes(new_unet(shapes, frozen(precision))),
    )


def warm_up_task(params: Params, shapes: Shapes, *, is_knowledge: bool) -> Task:
    """One of the two phases of the warm-up."""
    section = params.student
    part = section.batch_size // section.accumulation_steps
    with measuring() as meter:
        teacher = materialized(new_unet(shapes, frozen(params.base.frozen_precision))) if is_knowledge else None
        student = new_student(shapes, section.architecture, is_checkpointing=section.gradient_checkpointing)
        state = training_state(meter, student, section.optimizer, is_accumulating=section.accumulation_steps > 1)
        if teacher is not None:
            meter.hold(teacher)
            meter.start()
        latents, timesteps, embeds = shapes.latents(part), zero_timesteps(part), shapes.prompt_embeds(part)
        with autocast(params.base.autocast, keeps_casts=not section.gradient_checkpointing):
            loss = (
                noise_pred(student, latents, timesteps, embeds).square().mean()
                if teacher is None
                else _knowledge_loss(student, teacher, latents, timesteps, embeds)
            )
        loss.backward()
        del state
    steps = min(section.knowledge_steps, section.num_steps)
    num_steps = steps if is_knowledge else section.num_steps - steps
    name = "knowledge" if is_knowledge else "trajectory"
    return Task(
        "student",
        f"{name} distillation, parts of {part}",
        meter.peak,
        meter.flops * num_steps * section.accumulation_steps,
    )


def _knowledge_loss(
    student: nn.Module, teacher: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor
) -> Tensor:
    pairs = matching_blocks(student, teacher)
    with recorded_outputs(student, [mine for mine, _ in pairs]) as mine:
        prediction = noise_pred(student, latents, timesteps, embeds)
    with torch.no_grad(), recorded_outputs(teacher, [its for _, its in pairs]) as its:
        target = guided(teacher, latents, timesteps, embeds)
    features = feature_loss([mine[a] for a, _ in pairs], [its[b][-len(latents) :] for _, b in pairs])
    return (prediction - target).square().mean() + features
