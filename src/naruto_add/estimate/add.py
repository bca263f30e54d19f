"""The tasks of the stage `add`."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from naruto_add.config.schema import Params
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.estimate.add_parts import Part, parts_of_batch
from naruto_add.estimate.adversary import Adversary, Crops
from naruto_add.estimate.counts import add_decoded, num_validations
from naruto_add.estimate.drawing import decoding, encoding, student_sampling
from naruto_add.estimate.fake import materialized, measuring
from naruto_add.estimate.feature_networks import backbone_network, new_backbone
from naruto_add.estimate.networks import Shapes, new_text_encoder, new_unet
from naruto_add.estimate.task import (
    Task,
    autocast,
    bytes_between_steps,
    frozen,
    guided,
    new_student,
    num_student_weights,
    training_state,
    weight_bytes,
    zero_timesteps,
)
from naruto_add.training.add.discriminators import discriminator_optimizer
from naruto_add.training.add.trainer import DIVERSITY_PROMPTS, DIVERSITY_SEEDS
from naruto_add.training.add.validation_score import BATCH_SIZE, INPUT_PX
from naruto_add.training.pool import num_held_out


def add_tasks(params: Params, shapes: Shapes, num_pictures: int) -> Iterator[Task]:
    """Encoding of real pictures, a step of adversarial distillation, and validations; without what is `uncounted`."""
    add, precision = params.add, params.base.frozen_precision
    with measuring():
        networks = weight_bytes(new_unet(shapes, frozen(precision)), new_text_encoder(shapes, frozen(precision)))
    num_train = num_pictures * (1 - params.ingest.validation_fraction - params.ingest.test_fraction)
    num_encoded = 0 if add.real_source == "teacher" else round(num_train)
    yield encoding("add", shapes, num_calls=num_encoded, others=networks)
    yield train_task(params, shapes)
    yield from _validation(params, shapes, num_real=round(num_train))


def train_task(params: Params, shapes: Shapes) -> Task:
    """The training steps: the peak of the largest kind of part of a batch, and the operations of all parts."""
    call, num_steps = _flops_of_call(params, shapes), params.sampling.student_steps
    peak, flops = 0, 0.0
    for part, number in parts_of_batch(params.add).items():
        part_peak, part_flops = _part_cost(params, shapes, part)
        rollouts = call * (part.rollout_calls(num_steps) - part.rollouts)  # the largest call is in the part's cost
        peak, flops = max(peak, part_peak), flops + number * (part_flops + rollouts)
    part_size = params.add.batch_size // params.add.accumulation_steps
    return Task("add", f"train, parts of {part_size}", peak, flops * params.add.num_steps)


def _part_cost(params: Params, shapes: Shapes, part: Part) -> tuple[int, float]:
    """Peak memory and operations of a part; of its rollouts, of the largest call only."""
    add = params.add
    with measuring() as meter:
        teacher = materialized(new_unet(shapes, frozen(params.base.frozen_precision)))
        student = new_student(shapes, params.student.architecture, is_checkpointing=add.gradient_checkpointing)
        is_accumulating = add.accumulation_steps > 1
        crops = Crops(add, shapes)
        adversary = Adversary(teacher, add, crops, text_width=shapes.text_width)
        states = [
            training_state(meter, student, add.optimizer, is_accumulating=is_accumulating),
            training_state(
                meter,
                adversary.heads,
                discriminator_optimizer(add.optimizer),
                is_accumulating=is_accumulating,
                has_average=False,
            ),
        ]
        meter.hold(teacher, *crops.networks, *adversary.networks)
        meter.start()
        _train_part(params, shapes, part, student=student, teacher=teacher, crops=crops, adversary=adversary)
        del states
    return meter.peak, meter.flops


def _train_part(
    params: Params,
    shapes: Shapes,
    part: Part,
    *,
    student: nn.Module,
    teacher: nn.Module,
    crops: Crops,
    adversary: Adversary,
) -> None:
    add = params.add
    latents, timesteps, embeds = shapes.latents(part.size), zero_timesteps(part.size), shapes.prompt_embeds(part.size)

    def predict(latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        with autocast(params.base.autocast, keeps_casts=not add.gradient_checkpointing):
            return noise_pred(student, latents, timesteps, embeds)

    if part.rollouts:
        with torch.no_grad():
            predict(latents[: part.rollouts], timesteps[: part.rollouts], embeds[: part.rollouts])
    x0 = latents - predict(latents, timesteps, embeds)
    loss = x0.abs().mean()
    if part.renoised:
        items = slice(part.renoised)
        with torch.no_grad():
            target = guided(teacher, x0[items], timesteps[items], embeds[items])
        loss = loss + (x0[items] - target).abs().mean()
    if not part.shown:
        loss.backward()
        return
    shown = slice(part.shown)
    pooled, conditions = torch.empty(part.shown, shapes.text_width), (timesteps[shown], embeds[shown])
    loss = loss + crops.loss(x0[shown], latents[shown])
    fakes = adversary.features(x0[shown], *conditions)
    loss = loss + adversary.loss(fakes, pooled)
    loss.backward()
    with torch.no_grad():
        reals = adversary.features(latents[shown], *conditions)
    adversary.train(fakes, reals, pooled)


def _flops_of_call(params: Params, shapes: Shapes) -> float:
    """The operations of a prediction of the student for one item."""
    with measuring() as meter:
        student = new_student(shapes, params.student.architecture, is_checkpointing=False)
        with torch.no_grad():
            noise_pred(student, shapes.latents(1), zero_timesteps(1), shapes.prompt_embeds(1))
    return meter.flops


def _validation(params: Params, shapes: Shapes, *, num_real: int) -> Iterator[Task]:
    """Samples of the averaged student, their decoding, and the score; the teacher's U-Net stays on the GPU."""
    add, architecture = params.add, params.student.architecture
    with measuring() as meter:
        backbone = new_backbone(add.score_backbone)
        meter.hold(backbone_network(backbone), *Crops(add, shapes).networks)
        resident = meter.held
        meter.start()
        with torch.no_grad():
            backbone(torch.empty(BATCH_SIZE, 3, INPUT_PX, INPUT_PX))
        of_scoring = meter.peak - resident
    teacher = weight_bytes(new_unet(shapes, frozen(params.base.frozen_precision)))
    rounds = num_validations(add.num_steps, add.validation_every_steps)
    num_held = num_held_out(params.student.pool_size)
    num_samples = (num_held + DIVERSITY_PROMPTS * DIVERSITY_SEEDS) * rounds
    num_calls = num_samples * params.sampling.student_steps
    yield student_sampling("add", params, shapes, add.optimizer, num_calls=num_calls, others=teacher + resident)
    state = num_student_weights(shapes, architecture) * bytes_between_steps(add.optimizer)
    num_decoded = add_decoded(params)
    yield decoding("add", shapes, num_pictures=num_decoded, others=teacher + resident + state)
    num_scored = num_decoded + min(num_real, num_held)
    peak = teacher + resident + state + of_scoring
    yield Task("add", f"score, {BATCH_SIZE} at once", peak, meter.flops / BATCH_SIZE * num_scored)
