"""One step of the student's warm-up, and all the state it has."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from naruto_add.compute import Precision, make_accelerator
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred
from naruto_add.losses.knowledge import feature_loss, weighted_error
from naruto_add.models.student import matching_blocks, recorded_outputs
from naruto_add.params import Student
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.held_out import sample_shared
from naruto_add.training.learner import Learner
from naruto_add.training.scores import relative_sample_error
from naruto_add.training.sharing import means, own_parts
from naruto_add.training.student.inputs import Batch, Lesson, draw_noised, draw_states
from naruto_add.training.weights import Best, Ema, as_drawn


class StudentRun:
    """The student, what it is taught and what it is examined in: one step, one validation, and all their state."""

    def __init__(
        self,
        student: UNet2DConditionModel,
        *,
        lesson: Lesson,
        held_out: Lesson,
        params: Student,
        precision: Precision,
    ) -> None:
        self.student, self.lesson, self.held_out, self.params = student, lesson, held_out, params
        self.precision, self.accelerator = precision, make_accelerator(precision)
        self.parts = own_parts(params)
        self.ema = Ema(student, params.ema_decay)
        self.best = Best()
        self.learner = Learner(
            student,
            self.accelerator,
            params=params,
            learning_rate=params.learning_rate,
            ema=self.ema,
            advice="lower student.learning_rate, or use base.precision fp32",
        )

    def state(self) -> dict[str, Stateful]:
        """All that a resumed run needs; the rest is a function of parameters, inputs and the step's number."""
        return {"student": self.learner, "best": self.best}

    def train_step(self, step: int) -> Scalars:
        """One update of the student: by knowledge distillation, and then along the teacher's way."""
        is_knowledge = step < self.params.knowledge_steps
        draw = draw_noised if is_knowledge else draw_states
        batch = draw(self.lesson, batch_size=self.params.batch_size, seed=self.params.seed, step=step)
        rows = []
        for part in self.parts:
            with self.accelerator.autocast():
                losses = self._losses(batch.part(part, self.lesson.bundle.device), is_knowledge=is_knowledge)
            loss = losses.total(self.params)
            self.learner.backward(loss)
            rows.append({"loss": loss, "task": losses.task, "output": losses.output, "feature": losses.feature})
        return {**means(rows), "grad_norm": self.learner.step()}

    def _losses(self, batch: Batch, *, is_knowledge: bool) -> "Losses":
        return knowledge_losses(self.student, batch, self.lesson) if is_knowledge else way_losses(self.student, batch)

    def validate(self, num_done: int) -> Scalars:
        """Score the averaged weights, and keep them if they are the best."""
        with self.ema.applied():
            scores = self.score()
        self.best.offer(scores["sample_mse"], num_done, self.ema.average())
        return {**scores}

    def score(self) -> dict[str, float]:
        """Samples from the held-out noises at the student's own steps, against what the teacher made of the same."""
        held_out, pool = self.held_out, self.held_out.pool
        x0_student = sample_shared(
            as_drawn(self.student, self.precision),
            bundle=held_out.bundle,
            noise=pool.noise,
            prompt_embeds=held_out.prompt_embeds[pool.caption_index],
            sampler=held_out.sampler,
            seed=self.params.seed,
        )
        constant = self.lesson.pool.x0.mean(dim=0)
        return {
            "sample_mse": (x0_student - pool.x0).square().mean().item(),
            "relative_sample_error": relative_sample_error(x0_student, pool.x0, constant=constant),
        }


@dataclass(frozen=True)
class Losses:
    """The three parts, unweighted; along the teacher's way there is but the first."""

    task: Float[Tensor, ""]
    output: Float[Tensor, ""]
    feature: Float[Tensor, ""]

    def total(self, params: Student) -> Float[Tensor, ""]:
        """Their weighted sum."""
        return (
            params.task_weight * self.task + params.output_weight * self.output + params.feature_weight * self.feature
        )


def knowledge_losses(student: UNet2DConditionModel, batch: Batch, lesson: Lesson) -> Losses:
    """Task, output and feature loss of the student on this batch; the teacher runs once, with no gradient."""
    pairs = matching_blocks(student, lesson.bundle.unet)
    with recorded_outputs(student, [mine for mine, _ in pairs]) as student_features:
        student_pred = noise_pred(student, batch.noisy_latents, batch.timesteps, batch.prompt_embeds)
    teacher_pred, teacher_features = _teacher_view(batch, lesson, [its for _, its in pairs])
    return Losses(
        task=weighted_error(student_pred, batch.noise, batch.weight),
        output=weighted_error(student_pred, teacher_pred, batch.weight),
        feature=feature_loss([student_features[mine] for mine, _ in pairs], teacher_features),
    )


def way_losses(student: UNet2DConditionModel, batch: Batch) -> Losses:
    """The squared distance between where the student's steps lead and where the teacher went, as the task's loss."""
    student_pred = noise_pred(student, batch.noisy_latents, batch.timesteps, batch.prompt_embeds)
    none = student_pred.new_zeros(())
    return Losses(task=weighted_error(student_pred, batch.noise, batch.weight), output=none, feature=none)


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
            guidance_scale=lesson.guidance_scale,
        )
    return teacher_pred, [features[name][-len(batch.timesteps) :] for name in names]
