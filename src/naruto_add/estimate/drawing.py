"""Tasks without training: encoding and decoding of pictures, drawing, and the sampling of a student in training.

`others` are the bytes of networks and of a training's state that are on the GPU meanwhile.
"""

from collections.abc import Iterator

import torch

from naruto_add.config.schema import Optimizer, Params, Precision
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.estimate.counts import Counts
from naruto_add.estimate.fake import materialized, measuring
from naruto_add.estimate.networks import Shapes, new_text_encoder, new_unet, new_vae
from naruto_add.estimate.task import (
    FP32_BYTES,
    Task,
    bytes_between_steps,
    frozen,
    guided,
    num_student_weights,
    weight_bytes,
    zero_timesteps,
)
from naruto_add.models.student import Architecture
from naruto_add.training.validation_samples import BATCH


def drawing_tasks(
    stage: str, params: Params, shapes: Shapes, counts: Counts, *, batch: int, precision: Precision, others: int = 0
) -> Iterator[Task]:
    """Drawing with teacher and student in this precision, and decoding; all networks of one model are on the GPU."""
    autoencoder = _vae_bytes(shapes, precision)
    yield drawing(
        stage,
        "draw with the teacher",
        shapes,
        precision=precision,
        batch=batch,
        num_calls=counts.teacher_calls,
        others=others + autoencoder,
    )
    yield drawing(
        stage,
        "draw with the student",
        shapes,
        precision=precision,
        batch=batch,
        num_calls=counts.student_calls,
        student=params.student.architecture,
        others=others + autoencoder,
    )
    others += _unet_bytes(shapes, precision) + _text_encoder_bytes(shapes, precision)
    is_halved = precision != "fp32"
    yield decoding(stage, shapes, num_pictures=counts.pictures, others=others, is_halved=is_halved)


def encoding(stage: str, shapes: Shapes, *, num_calls: int, others: int = 0) -> Task:
    """Encoding of one picture at a time; the stage takes as many at once as fit."""
    with measuring() as meter:
        vae = new_vae(shapes)
        meter.hold(vae)
        meter.start()
        with torch.no_grad():
            vae.encode(torch.empty(1, 3, shapes.side_px, shapes.side_px))
    return Task(stage, "encode, one picture at a time", meter.peak + others, meter.flops * num_calls)


def decoding(stage: str, shapes: Shapes, *, num_pictures: int, others: int, is_halved: bool = False) -> Task:
    """Decoding of one picture at a time; the stage takes as many at once as fit."""
    with measuring() as meter:
        vae = new_vae(shapes, is_halved=is_halved)
        meter.hold(vae)
        meter.start()
        with torch.no_grad():
            vae.decode(shapes.latents(1).to(vae.decoder.conv_in.weight.dtype))
    return Task(stage, "decode, one picture at a time", meter.peak + others, meter.flops * num_pictures)


def drawing(
    stage: str,
    name: str,
    shapes: Shapes,
    *,
    precision: Precision,
    batch: int,
    num_calls: float,
    student: Architecture | None = None,
    others: int = 0,
) -> Task:
    """Guided calls of the teacher's U-Net, or calls of a student's without guidance, with this many pictures at once.

    The text encoder is on the GPU too. `num_calls` counts one for each picture.
    """
    dtype = frozen(precision)
    with measuring() as meter:
        unet = materialized(new_unet(shapes, dtype, student or "none"))
        meter.hold(unet, new_text_encoder(shapes, dtype))
        meter.start()
        inputs = shapes.latents(batch), zero_timesteps(batch), shapes.prompt_embeds(batch)
        with torch.no_grad():
            noise_pred(unet, *inputs) if student else guided(unet, *inputs)
    return Task(stage, f"{name}, {batch} at once", meter.peak + others, meter.flops / batch * num_calls)


def student_sampling(
    stage: str, params: Params, shapes: Shapes, optimizer: Optimizer, *, num_calls: int, others: int
) -> Task:
    """Samples of the averaged student, with its training's state, by a copy of it in `base.frozen_precision`.

    The averaged weights are in the place of the trained ones, of which there is a copy where the average is. The copy
    that draws is made in fp32 and then rounded; with fp32, there is none.
    """
    precision, architecture = params.base.frozen_precision, params.student.architecture
    weights = num_student_weights(shapes, architecture)
    others += weights * (bytes_between_steps(optimizer) + (0 if optimizer.ema_on_cpu else FP32_BYTES))
    with measuring() as meter:
        unet = materialized(new_unet(shapes, frozen(precision), architecture))
        if precision != "fp32":
            meter.hold(unet)
        meter.start()
        inputs = shapes.latents(BATCH), zero_timesteps(BATCH), shapes.prompt_embeds(BATCH)
        with torch.no_grad():
            noise_pred(unet, *inputs)
    copying = 0 if precision == "fp32" else weights * FP32_BYTES
    peak = max(meter.peak, copying) + others
    return Task(stage, f"sample for a validation, {BATCH} at once", peak, meter.flops / BATCH * num_calls)


def _vae_bytes(shapes: Shapes, precision: Precision) -> int:
    with measuring():
        return weight_bytes(new_vae(shapes, is_halved=precision != "fp32"))


def _unet_bytes(shapes: Shapes, precision: Precision) -> int:
    return weight_bytes(new_unet(shapes, frozen(precision)))


def _text_encoder_bytes(shapes: Shapes, precision: Precision) -> int:
    with measuring():
        return weight_bytes(new_text_encoder(shapes, frozen(precision)))
