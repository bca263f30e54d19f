"""Peak memory and FLOPs of the tasks of every stage, with this project's own steps on fake tensors."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from naruto_add.config.schema import Add, Optimizer, Params, Precision
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred
from naruto_add.estimate.counts import Counts, add_decoded, evaluate_counts, export_counts, samples_counts
from naruto_add.estimate.fake import Meter, materialized, measuring, on_meta
from naruto_add.estimate.networks import Shapes, new_text_encoder, new_unet, new_vae
from naruto_add.losses.adversarial import discriminator_hinge, generator_hinge, r1_penalty
from naruto_add.losses.knowledge import feature_loss
from naruto_add.models.discriminator import LatentDiscriminator, UnetFeatures, gradients_off
from naruto_add.models.lora import add_lora
from naruto_add.models.student import Architecture, matching_blocks, recorded_outputs
from naruto_add.training.add.decoding import decode_crops
from naruto_add.training.add.discriminators import discriminator_optimizer
from naruto_add.training.draw_pool import CHUNK

SMALL_BATCH = 8
"""Pictures that `samples` and `export` draw at once: as many as there are prompts, or as are timed."""


@dataclass(frozen=True)
class Task:
    """One kind of work of a stage: its peak memory, and its FLOPs over the whole stage."""

    stage: str
    name: str
    peak_bytes: int
    flops: float


def all_tasks(params: Params, shapes: Shapes, *, num_pictures: int) -> Iterator[Task]:
    """The tasks of all stages that use a GPU, in the pipeline's order, for a data set of this many pictures."""
    yield from teacher_tasks(params, shapes, num_pictures)
    yield from student_tasks(params, shapes)
    yield from add_tasks(params, shapes)
    num_test = round(num_pictures * params.ingest.test_fraction)
    evaluated, shown, exported = (
        evaluate_counts(params, num_test),
        samples_counts(params, num_test),
        export_counts(params),
    )
    yield from drawing_tasks("evaluate", params, shapes, evaluated, batch=params.evaluate.batch_size)
    yield from drawing_tasks("samples", params, shapes, shown, batch=SMALL_BATCH)
    yield from drawing_tasks("export", params, shapes, exported, batch=SMALL_BATCH, precision="fp32")


def teacher_tasks(params: Params, shapes: Shapes, num_pictures: int) -> Iterator[Task]:
    """Encoding the pictures, with the U-Net on the CPU, and training."""
    teacher = params.teacher
    yield encoding("teacher", shapes, num_calls=num_pictures * (1 + teacher.flip))
    part = teacher.batch_size // teacher.accumulation_steps
    with measuring() as meter:
        unet = new_unet(shapes, torch.float32)
        with on_meta():
            add_lora(unet, None, targets=teacher.lora_targets, rank=teacher.lora_rank, seed=0)
        materialized(unet.train() if teacher.gradient_checkpointing else unet)
        if teacher.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        state = _training_state(meter, unet, teacher.optimizer, is_accumulating=teacher.accumulation_steps > 1)
        with _autocast(params.base.autocast):
            loss = noise_pred(unet, shapes.latents(part), _timesteps(part), shapes.prompt_embeds(part)).square().mean()
        loss.backward()
        del state
    num_parts = teacher.num_steps * teacher.accumulation_steps
    yield Task("teacher", f"train, parts of {part}", meter.peak, meter.flops * num_parts)


def student_tasks(params: Params, shapes: Shapes) -> Iterator[Task]:
    """Drawing the pool, the two phases of the warm-up. In the second, the teacher's U-Net is in CPU memory."""
    student, sampling = params.student, params.sampling
    num_calls = student.pool_size * sampling.pool_steps
    precision = params.base.frozen_precision
    yield drawing("student", "draw the pool", shapes, precision=precision, batch=CHUNK, num_calls=num_calls)
    for is_knowledge in (True, False):
        yield warm_up_task(params, shapes, is_knowledge=is_knowledge)


def warm_up_task(params: Params, shapes: Shapes, *, is_knowledge: bool) -> Task:
    """One of the two phases of the warm-up."""
    section = params.student
    part = section.batch_size // section.accumulation_steps
    with measuring() as meter:
        teacher = materialized(new_unet(shapes, _dtype(params.base.frozen_precision))) if is_knowledge else None
        student = _new_student(params, shapes, is_checkpointing=section.gradient_checkpointing)
        state = _training_state(meter, student, section.optimizer, is_accumulating=section.accumulation_steps > 1)
        if teacher is not None:
            meter.hold(teacher)
            meter.start()
        latents, timesteps, embeds = shapes.latents(part), _timesteps(part), shapes.prompt_embeds(part)
        with _autocast(params.base.autocast, keeps_casts=not section.gradient_checkpointing):
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
        target = _guided(teacher, latents, timesteps, embeds)
    features = feature_loss([mine[a] for a, _ in pairs], [its[b][-len(latents) :] for _, b in pairs])
    return (prediction - target).square().mean() + features


def add_tasks(params: Params, shapes: Shapes) -> Iterator[Task]:
    """One part of a step of adversarial distillation, and the decoding of a validation; without what is `uncounted`."""
    add = params.add
    part = add.batch_size // add.accumulation_steps
    shown = max(1, round(part * add.discriminator_fraction))
    renoised = max(1, round(part * add.renoised_fraction)) if add.renoised_weight else 0
    with measuring() as meter:
        teacher = materialized(new_unet(shapes, _dtype(params.base.frozen_precision)))
        student = _new_student(params, shapes, is_checkpointing=add.gradient_checkpointing)
        is_accumulating = add.accumulation_steps > 1
        states = [_training_state(meter, student, add.optimizer, is_accumulating=is_accumulating)]
        adversary = None
        if "latent" in add.discriminators:
            adversary = _LatentAdversary(teacher, add.discriminator_blocks, text_width=shapes.text_width)
            states += [_heads_state(meter, adversary.heads, add.optimizer, is_accumulating=is_accumulating)]
        decoders = [new_vae(shapes)] * _num_decoded(add)
        meter.hold(teacher, *decoders)
        meter.start()
        latents, timesteps, embeds = shapes.latents(part), _timesteps(part), shapes.prompt_embeds(part)
        pooled, corner = torch.empty(shown, shapes.text_width), torch.zeros(shown, 2)
        precision = params.base.autocast
        with torch.no_grad(), _autocast(precision, keeps_casts=not add.gradient_checkpointing):
            for _ in range(params.sampling.student_steps - 1):  # the student's own states
                noise_pred(student, latents, timesteps, embeds)
        with _autocast(precision, keeps_casts=not add.gradient_checkpointing):
            x0 = latents - noise_pred(student, latents, timesteps, embeds)
        loss = x0.abs().mean()
        if renoised:
            with torch.no_grad():
                target = _guided(teacher, x0[:renoised], timesteps[:renoised], embeds[:renoised])
            loss = loss + (x0[:renoised] - target).abs().mean()
        conditions = timesteps[:shown], embeds[:shown]
        if adversary is not None:
            fakes = adversary.features(x0[:shown], *conditions)
            loss = loss + adversary.loss(fakes, pooled)
        for vae in decoders:
            loss = loss + decode_crops(vae, x0[:shown], corner, side_px=add.crop_px).abs().mean()
        loss.backward()
        with torch.no_grad():
            reals = [] if adversary is None else adversary.features(latents[:shown], *conditions)
            for vae in decoders:  # real pictures, or targets
                decode_crops(vae, latents[:shown], corner, side_px=add.crop_px)
        if adversary is not None:
            adversary.train(fakes, reals, pooled)
        del states
    yield Task("add", f"train, parts of {part}", meter.peak, meter.flops * add.num_steps * add.accumulation_steps)
    yield decoding("add", params, shapes, num_pictures=add_decoded(params), optimizer=add.optimizer)


class _LatentAdversary:
    """The latent discriminator: heads, which are trained, on features of the teacher's U-Net."""

    def __init__(self, teacher: nn.Module, blocks: Sequence[str], *, text_width: int) -> None:
        self.features = UnetFeatures(teacher, blocks)
        with on_meta():
            heads = LatentDiscriminator(self.features.num_channels, pooled_width=text_width)
        self.heads = materialized(heads)

    def loss(self, fakes: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """The student's adversarial loss."""
        with gradients_off(self.heads):
            return torch.stack([generator_hinge(logits) for logits in self.heads(fakes, pooled)]).mean()

    def train(self, fakes: Sequence[Tensor], reals: Sequence[Tensor], pooled: Tensor) -> None:
        """The heads' backward pass, with the penalty."""
        inputs = [item.detach().requires_grad_() for item in reals]
        real, fake = self.heads(inputs, pooled), self.heads([item.detach() for item in fakes], pooled)
        hinge = torch.stack([discriminator_hinge(*pair) for pair in zip(real, fake, strict=True)]).mean()
        penalty = torch.stack([r1_penalty(*pair) for pair in zip(real, inputs, strict=True)]).mean()
        (hinge + penalty).backward()


def _num_decoded(add: Add) -> int:
    """How many times a training step decodes crops of the student's pictures: for the discriminator, and for losses."""
    return ("pixel" in add.discriminators) + bool(add.perceptual_weight or add.image_text_weight)


def uncounted(params: Params) -> list[str]:
    """What these parameters add to the memory and time of a stage, and no task counts."""
    add = params.add
    parts = {
        "teacher: the training of the text encoder (teacher.lora_text_encoder)": params.teacher.lora_text_encoder,
        "add: add.pixel_backbone and the heads on its features (add.discriminators)": "pixel" in add.discriminators,
        "add: the feature network of the perceptual loss (add.perceptual_weight)": bool(add.perceptual_weight),
        "add: add.image_text_network (add.image_text_weight)": bool(add.image_text_weight),
        "add: pictures of other sizes (add.resolutions_px)": bool(add.resolutions_px),
        "teacher, student, add: pictures in aspect buckets (ingest.aspect_buckets)": params.ingest.aspect_buckets,
        "add: what add.method consistency does instead of an adversarial step": add.method == "consistency",
    }
    return [part for part, is_used in parts.items() if is_used]


def drawing_tasks(
    stage: str, params: Params, shapes: Shapes, counts: Counts, *, batch: int, precision: Precision | None = None
) -> Iterator[Task]:
    """Drawing with teacher and student in `base.frozen_precision`, or in the given one, and decoding."""
    precision = precision or params.base.frozen_precision
    yield drawing(
        stage, "draw with the teacher", shapes, precision=precision, batch=batch, num_calls=counts.teacher_calls
    )
    yield drawing(
        stage,
        "draw with the student",
        shapes,
        precision=precision,
        batch=batch,
        num_calls=counts.student_calls,
        student=params.student.architecture,
    )
    yield decoding(stage, params, shapes, num_pictures=counts.pictures)


def encoding(stage: str, shapes: Shapes, *, num_calls: int) -> Task:
    """Encoding of one picture at a time; the stage takes as many at once as fit."""
    with measuring() as meter:
        vae = new_vae(shapes)
        meter.hold(vae, new_text_encoder(torch.float32))
        meter.start()
        side = shapes.latent_side * 2 ** (len(shapes.vae["block_out_channels"]) - 1)
        with torch.no_grad():
            vae.encode(torch.empty(1, 3, side, side))
    return Task(stage, "encode, one picture at a time", meter.peak, meter.flops * num_calls)


def decoding(
    stage: str, params: Params, shapes: Shapes, *, num_pictures: int, optimizer: Optimizer | None = None
) -> Task:
    """Decoding of one picture at a time, with the teacher in memory and, given its optimizer, a student in training."""
    state_bytes = num_student_weights(params, shapes) * _bytes_between_steps(optimizer) if optimizer else 0
    with measuring() as meter:
        vae = new_vae(shapes)
        unet = materialized(new_unet(shapes, _dtype(params.base.frozen_precision)))
        meter.hold(vae, unet)
        state = torch.empty(state_bytes, dtype=torch.uint8)
        meter.start()
        with torch.no_grad():
            vae.decode(shapes.latents(1))
        del state
    return Task(stage, "decode, one picture at a time", meter.peak, meter.flops * num_pictures)


def drawing(
    stage: str,
    name: str,
    shapes: Shapes,
    *,
    precision: Precision,
    batch: int,
    num_calls: float,
    student: Architecture | None = None,
) -> Task:
    """Guided calls of the teacher's U-Net, or calls of a student's without guidance, with this many pictures at once.

    `num_calls` counts one for each picture.
    """
    dtype = _dtype(precision)
    with measuring() as meter:
        unet = materialized(new_unet(shapes, dtype, student or "none"))
        meter.hold(unet, new_text_encoder(dtype))
        meter.start()
        inputs = shapes.latents(batch), _timesteps(batch), shapes.prompt_embeds(batch)
        with torch.no_grad():
            noise_pred(unet, *inputs) if student else _guided(unet, *inputs)
    return Task(stage, f"{name}, {batch} at once", meter.peak, meter.flops / batch * num_calls)


def _new_student(params: Params, shapes: Shapes, *, is_checkpointing: bool = False) -> nn.Module:
    student = new_unet(shapes, torch.float32, params.student.architecture).requires_grad_(True)
    materialized(student.train())
    if is_checkpointing:
        student.enable_gradient_checkpointing()
    return student


def _heads_state(meter: Meter, heads: nn.Module, optimizer: Optimizer, *, is_accumulating: bool) -> list[Tensor]:
    """The training state of a discriminator's heads, which have their own optimizer and no moving average."""
    of_heads = discriminator_optimizer(optimizer)
    return _training_state(meter, heads, of_heads, is_accumulating=is_accumulating, has_average=False)


def _training_state(
    meter: Meter, module: nn.Module, optimizer: Optimizer, *, is_accumulating: bool, has_average: bool = True
) -> list[Tensor]:
    """The optimizer's averages and, if there is one, the moving average of the weights; counted from now on.

    The module's weights are counted too. Gradients of earlier parts of a batch are kept while the others are computed.
    """
    meter.hold(module)
    trainable = [item for item in module.parameters() if item.requires_grad]
    dtype = torch.uint8 if optimizer.name == "adamw_8bit" else torch.float32
    num_averages = 1 if optimizer.name == "muon" else 2  # of few weights Muon has two, by AdamW
    state = [torch.empty(item.shape, dtype=dtype) for item in trainable for _ in range(num_averages)]
    if has_average and not optimizer.ema_on_cpu:
        state += [torch.empty(item.shape) for item in trainable]
    if is_accumulating:
        for item in trainable:
            item.grad = torch.empty(item.shape)
    meter.start()
    return state


def _bytes_between_steps(optimizer: Optimizer) -> int:
    """GPU bytes of each trained weight: the weight, the optimizer's averages, the moving average; no gradient."""
    optimizer_bytes = {"adamw": 8, "adamw_8bit": 2, "muon": 4}[optimizer.name]
    return 4 + optimizer_bytes + (0 if optimizer.ema_on_cpu else 4)


def _autocast(precision: Precision, *, keeps_casts: bool = True) -> AbstractContextManager[object]:
    """Half precision of either kind has two bytes, and the CPU's autocast knows bf16 only."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=keeps_casts)


def _dtype(precision: Precision) -> torch.dtype:
    """The dtype of frozen networks; bf16 also for fp16, which has as many bytes."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def _guided(unet: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
    return guided_noise_pred(
        unet, latents, timesteps, prompt_embeds=embeds, negative_embeds=embeds[:1], guidance_scale=7.5
    )


def _timesteps(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.long)


def num_student_weights(params: Params, shapes: Shapes) -> int:
    """The number of weights of the student's U-Net."""
    return int(new_unet(shapes, torch.float32, params.student.architecture).num_parameters())
