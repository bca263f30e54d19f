"""The warm-up of the student: one training step, one validation, and all state of both."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from naruto_add.config.schema import Precision, Student
from naruto_add.diffusion.bundle import decode_latents
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred
from naruto_add.imaging.pixels import Images, to_uint8
from naruto_add.losses.knowledge import feature_loss, weighted_error
from naruto_add.models.student import matching_blocks, recorded_outputs
from naruto_add.runtime.compute import frozen_dtype, make_accelerator
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.learner import Learner
from naruto_add.training.processes import local_parts, means
from naruto_add.training.scores import relative_sample_error
from naruto_add.training.student.batch import Batch, draw_knowledge_batch, draw_trajectory_batch
from naruto_add.training.student.dataset import WarmupData
from naruto_add.training.validation_samples import NUM_PICTURES, sample_across_processes
from naruto_add.training.weights import Best, Ema, in_sampling_precision

NUM_SCORED = 64
"""Held-out pool samples of a validation, at most: a squared error needs fewer than a distance of distributions."""


class StudentTrainer:
    """The student, its average and optimizer, the best weights, and the pool samples for training and for scoring."""

    def __init__(
        self,
        student: UNet2DConditionModel,
        *,
        data: WarmupData,
        held_out: WarmupData,
        params: Student,
        frozen_precision: Precision,
        autocast: Precision,
    ) -> None:
        """Raises StageError if the batch cannot be divided into equal parts."""
        self.student, self.data, self.held_out, self.params = student, data, held_out, params
        self.sampling_dtype = frozen_dtype(frozen_precision)
        self.accelerator = make_accelerator(autocast, keeps_casts=not params.gradient_checkpointing)
        self.parts = local_parts("student", batch_size=params.batch_size, accumulation_steps=params.accumulation_steps)
        if params.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        self.ema = Ema(student, params.optimizer.ema_decay, on_cpu=params.optimizer.ema_on_cpu)
        self.best = Best()
        self._drawn = held_out.pool.x0[:NUM_PICTURES]
        self.learner = Learner(
            student,
            self.accelerator,
            section="student",
            optimizer=params.optimizer,
            learning_rate=params.optimizer.learning_rate,
            num_steps=params.num_steps,
            accumulation_steps=params.accumulation_steps,
            ema=self.ema,
            advice="lower student.optimizer.learning_rate, or use base.autocast fp32",
        )

    def state(self) -> dict[str, Stateful]:
        """Everything that a checkpoint has to store."""
        return {"student": self.learner, "best": self.best}

    def train_step(self, step: int) -> Scalars:
        """One optimizer step: knowledge distillation in the first `knowledge_steps`, then trajectory distillation."""
        is_knowledge = step < self.params.knowledge_steps
        if not is_knowledge:
            move_to_cpu(self.data.bundle.unet)
        draw = draw_knowledge_batch if is_knowledge else draw_trajectory_batch
        batch = draw(self.data, batch_size=self.params.batch_size, seed=self.params.seed, step=step)
        rows = []
        for part in self.parts:
            with self.accelerator.autocast():
                losses = self._losses(batch.part(part, self.data.bundle.device), is_knowledge=is_knowledge)
            loss = losses.total(self.params)
            self.learner.backward(loss)
            rows.append({"loss": loss, "task": losses.task, "output": losses.output, "feature": losses.feature})
        return {**means(rows), "grad_norm": self.learner.step()}

    def validate(self, num_done: int) -> Scalars:
        """Score the averaged weights, and keep them if they are the best."""
        with self.ema.applied():
            scores = self.score()
        self.best.offer(scores["sample_mse"], num_done, self.ema.average())
        return {**scores}

    def score(self) -> dict[str, float]:
        """Errors of the student's samples, at its own timesteps, to the held-out pool samples from the same noise."""
        held_out, pool = self.held_out, self.held_out.pool
        noise, x0, rows = pool.noise[:NUM_SCORED], pool.x0[:NUM_SCORED], pool.prompt_index[:NUM_SCORED]
        x0_student = sample_across_processes(
            in_sampling_precision(self.student, self.sampling_dtype),
            bundle=held_out.bundle,
            noise=noise,
            prompt_embeds=held_out.prompt_embeds[rows],
            sampler=held_out.sampler,
            seed=self.params.seed,
        )
        self._drawn = x0_student[:NUM_PICTURES]
        constant = self.data.pool.x0.mean(dim=0)
        return {
            "sample_mse": (x0_student - x0).square().mean().item(),
            "relative_sample_error": relative_sample_error(x0_student, x0, constant=constant),
        }

    @torch.no_grad()
    def pictures(self) -> Images:
        """The first samples of the last validation, decoded."""
        bundle = self.held_out.bundle
        return to_uint8(decode_latents(bundle, self._drawn.to(bundle.device)))

    def _losses(self, batch: Batch, *, is_knowledge: bool) -> "Losses":
        if is_knowledge:
            return knowledge_losses(self.student, batch, self.data)
        return trajectory_losses(self.student, batch)


@dataclass(frozen=True)
class Losses:
    """The losses of BK-SDM, unweighted: against the noise, against the teacher's prediction, and of block outputs."""

    task: Float[Tensor, ""]
    output: Float[Tensor, ""]
    feature: Float[Tensor, ""]

    def total(self, params: Student) -> Float[Tensor, ""]:
        """The weighted sum; the losses against the noise and against the teacher's prediction have weight 1."""
        return self.task + self.output + params.feature_weight * self.feature


def knowledge_losses(student: UNet2DConditionModel, batch: Batch, data: WarmupData) -> Losses:
    """The losses of knowledge distillation. Calls student and teacher once each, the teacher without gradient."""
    pairs = matching_blocks(student, data.bundle.unet)
    with recorded_outputs(student, [mine for mine, _ in pairs]) as student_features:
        student_pred = noise_pred(student, batch.noisy_latents, batch.timesteps, batch.prompt_embeds)
    teacher_pred, teacher_features = _teacher_outputs(batch, data, [its for _, its in pairs])
    return Losses(
        task=weighted_error(student_pred, batch.noise, batch.weight),
        output=weighted_error(student_pred, teacher_pred, batch.weight),
        feature=feature_loss([student_features[mine] for mine, _ in pairs], teacher_features),
    )


def trajectory_losses(student: UNet2DConditionModel, batch: Batch) -> Losses:
    """The squared distance of the student's next state to the teacher's, as the task loss; the other losses are 0."""
    student_pred = noise_pred(student, batch.noisy_latents, batch.timesteps, batch.prompt_embeds)
    zero = student_pred.new_zeros(())
    return Losses(task=weighted_error(student_pred, batch.noise, batch.weight), output=zero, feature=zero)


@torch.no_grad()
def _teacher_outputs(batch: Batch, data: WarmupData, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """The guided prediction, and the named blocks' outputs with the prompt, the second half of the guided batch."""
    is_apart = torch.autocast(batch.noisy_latents.device.type, enabled=False)  # the teacher computes in its own dtype
    with recorded_outputs(data.bundle.unet, names) as features, is_apart:
        teacher_pred = guided_noise_pred(
            data.bundle.unet,
            batch.noisy_latents,
            batch.timesteps,
            prompt_embeds=batch.prompt_embeds,
            negative_embeds=data.negative_embeds,
            guidance_scale=data.guidance_scale,
        )
    return teacher_pred, [features[name][-len(batch.timesteps) :] for name in names]
