"""The tasks of the stage `teacher`."""

from collections.abc import Iterator

import torch
from torch import nn

from naruto_add.config.schema import Params
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.estimate.counts import num_validations
from naruto_add.estimate.drawing import decoding, encoding
from naruto_add.estimate.fake import Meter, materialized, measuring, on_meta
from naruto_add.estimate.networks import Shapes, new_text_encoder, new_unet
from naruto_add.estimate.task import (
    Task,
    autocast,
    guided,
    training_state,
    weight_bytes,
    zero_timesteps,
)
from naruto_add.models.lora import add_lora
from naruto_add.training.teacher.trainer import DRAWING_STEPS


def teacher_tasks(params: Params, shapes: Shapes, num_pictures: int) -> Iterator[Task]:
    """Encoding the pictures, with the U-Net on the CPU; training; and the loss and the pictures of validations."""
    teacher = params.teacher
    with measuring():
        text_encoder = weight_bytes(new_text_encoder(shapes, torch.float32))
    yield encoding("teacher", shapes, num_calls=num_pictures * (1 + teacher.flip), others=text_encoder)
    part = teacher.batch_size // teacher.accumulation_steps
    with measuring() as meter:
        unet = _adapted(params, shapes)
        state = training_state(meter, unet, teacher.optimizer, is_accumulating=teacher.accumulation_steps > 1)
        with autocast(params.base.autocast):
            inputs = shapes.latents(part), zero_timesteps(part), shapes.prompt_embeds(part)
            loss = noise_pred(unet, *inputs).square().mean()
        loss.backward()
        del state
    num_parts = teacher.num_steps * teacher.accumulation_steps
    yield Task("teacher", f"train, parts of {part}", meter.peak, meter.flops * num_parts)
    yield from _validation(params, shapes, num_held_out=round(num_pictures * params.ingest.validation_fraction))


def _validation(params: Params, shapes: Shapes, *, num_held_out: int) -> Iterator[Task]:
    """The loss of whole batches, then a picture of each prompt by the U-Net in fp32 under autocast, then decoding."""
    teacher, prompts = params.teacher, len(params.teacher.validation_prompts)
    rounds = num_validations(teacher.num_steps, teacher.validation_every_steps)
    with measuring() as meter:
        unet = _adapted(params, shapes)
        state = _state_at_validation(meter, unet, params)
        resident = meter.held
        with torch.no_grad(), autocast(params.base.autocast):
            size = teacher.batch_size
            noise_pred(unet, shapes.latents(size), zero_timesteps(size), shapes.prompt_embeds(size))
            of_batch = meter.flops
            guided(unet, shapes.latents(prompts), zero_timesteps(prompts), shapes.prompt_embeds(prompts))
        of_loss, of_drawing = of_batch / size * num_held_out, (meter.flops - of_batch) * DRAWING_STEPS
        del state
    name = f"validate, {teacher.batch_size} at once"
    yield Task("teacher", name, meter.peak, (of_loss + of_drawing) * rounds)
    yield decoding("teacher", shapes, num_pictures=prompts * rounds, others=resident)


def _adapted(params: Params, shapes: Shapes) -> nn.Module:
    teacher = params.teacher
    unet = new_unet(shapes, torch.float32)
    with on_meta():
        add_lora(unet, None, targets=teacher.lora_targets, rank=teacher.lora_rank, seed=0)
    materialized(unet.train() if teacher.gradient_checkpointing else unet)
    if teacher.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def _state_at_validation(meter: Meter, unet: nn.Module, params: Params) -> list[torch.Tensor]:
    """The training's state and a copy of the adapters, whose place their averages take."""
    optimizer = params.teacher.optimizer
    state = training_state(meter, unet, optimizer, is_accumulating=False)
    if not optimizer.ema_on_cpu:
        state += [torch.empty(item.shape) for item in unet.parameters() if item.requires_grad]
    meter.start()
    return state
