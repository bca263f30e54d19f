"""One step of adversarial diffusion distillation, and all the state it has.

Of the teacher, a step costs one forward pass of features on the reals, one forward and backward pass on the fakes (the
discriminator's update reuses them), and a guided call on a part of the batch.
"""

from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import Precision, make_accelerator, step_generator
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add_alarms import Alarms
from naruto_add.training.add_critics import Critics, detached
from naruto_add.training.add_distiller import Distiller
from naruto_add.training.add_image_text import ImageText
from naruto_add.training.add_inputs import AddData, Batch, Pictures, draw_batch, draw_unseen
from naruto_add.training.add_state import Patience, Scores
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.held_out import sample_shared
from naruto_add.training.learner import Learner
from naruto_add.training.scores import check_can_sample, colour_drift, sliced_distance, spread
from naruto_add.training.sharing import means, own_parts
from naruto_add.training.weights import Best, Ema, as_drawn

DIVERSITY_STREAM = 2
DIVERSITY_PROMPTS = 2
DIVERSITY_SEEDS = 4


class AddRun:
    """Student, frozen teacher, discriminator and their optimizers: one step, one validation, and all their state."""

    def __init__(
        self,
        bundle: ModelBundle,
        student: UNet2DConditionModel,
        *,
        data: AddData,
        params: Add,
        guidance_scale: float,
        student_scheduler: StudentScheduler,
        precision: Precision,
        image_text: ImageText | None = None,
    ) -> None:
        self.bundle, self.student, self.data, self.params = bundle, student, data, params
        num_steps = len(params.timesteps)
        self.sampler = Sampler(make_student_scheduler(bundle.scheduler, student_scheduler, num_steps), num_steps, 1.0)
        self.precision, self.parts = precision, own_parts(params)
        accelerator = make_accelerator(training_precision(precision))
        if params.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        self.critics = Critics(bundle, params=params, pooled_width=data.pooled.shape[1])
        self.distiller = Distiller(
            student,
            bundle,
            negative_embeds=data.prompt_embeds[:1],
            params=params,
            guidance_scale=guidance_scale,
            student_scheduler=student_scheduler,
            accelerator=accelerator,
            image_text=image_text,
        )
        self.ema = Ema(student, params.ema_decay)
        self.learner = Learner(
            student,
            accelerator,
            params=params,
            learning_rate=params.learning_rate,
            ema=self.ema,
            advice="lower add.learning_rate or add.adv_weight",
        )
        self.judge = Learner(
            self.critics.heads,
            accelerator,
            params=params,
            learning_rate=params.discriminator_learning_rate,
            betas=(0.0, 0.999),
            advice="lower add.discriminator_learning_rate",
        )
        self.best = Best()
        self.scores = Scores()
        self.patience = Patience(params.patience)
        self.alarms = Alarms(params.alarm_window_steps)

    def state(self) -> dict[str, Stateful]:
        """All that a resumed run needs; the rest is a function of parameters, inputs and the step's number."""
        return {
            "student": self.learner,
            "discriminator": self.judge,
            "heads": self.critics.heads,  # buffers too: a spectral norm's power iteration
            "augment": self.critics.strength,
            "best": self.best,
            "scores": self.scores,
            "patience": self.patience,
            "alarms": self.alarms,
        }

    def train_step(self, step: int) -> Scalars:
        """One update of the student and one of the discriminator, both on the same fakes."""
        batch = draw_batch(self.data, self.params, step=step)
        unseen = draw_unseen(self.data, self.params, step=step) if self.critics.strength.is_due(step) else None
        adv_weight = adv_weight_at(step, self.params)
        rows = []
        for part in self.parts:
            unseen_part = None if unseen is None else unseen.part(part)
            rows.append(self._learn_from(batch.part(part, self.bundle.device), adv_weight, unseen_part))
        norms = {"student_grad_norm": self.learner.step(), "discriminator_grad_norm": self.judge.step()}
        scalars = means(rows)
        if unseen is not None:
            self.critics.strength.adapt(seen=scalars.pop("seen"), unseen=scalars.pop("unseen"))
        self.alarms.note_step(step + 1, scalars)
        own = {"adv_weight": adv_weight, "skipped": float(self.num_skipped), **self.critics.strength.scalars()}
        return {**scalars, **own, **norms}

    def _learn_from(self, batch: Batch, adv_weight: float, unseen: Pictures | None) -> dict[str, Tensor]:
        """Gradients of both sides on one part of a batch; the discriminator's updates reuse the student's fakes."""
        noisy = self.distiller.student_inputs(batch)
        x0_student = self.distiller.x0_of(noisy, batch)
        with torch.set_grad_enabled(adv_weight > 0):
            fake_features = self.critics.features(x0_student, batch.prompt_embeds, batch)
        losses = self.distiller.losses(x0_student, replace(batch, x0=self.distiller.pair_target(noisy, batch)))
        adv_loss = self.critics.adversarial_loss(fake_features, batch.pooled)
        loss = self.params.distill_weight * losses["distill_loss"] + adv_weight * adv_loss
        if "perceptual_loss" in losses:
            loss = loss + self.params.perceptual_weight * losses["perceptual_loss"]
        if "image_text_loss" in losses:
            loss = loss + self.params.image_text_weight * losses["image_text_loss"]
        self.learner.backward(loss)
        verdict = self.critics.discriminator_losses(detached(fake_features), batch)
        self.judge.backward(verdict.hinge + self.params.r1_weight * verdict.penalty)
        signs = {} if unseen is None else self.critics.signs(verdict, unseen, data=self.data, batch=batch)
        return {**losses, "adv_loss": adv_loss, **verdict.scalars(), **signs}

    def validate(self, num_done: int) -> Scalars:
        """Sample the averaged student from held-out noise as users will, score it, and keep the best."""
        with self.ema.applied():
            samples = self.sample_held_out()
            diversity = self.sample_few_prompts()
        reference = self.data.held_out.x0
        scalars = {
            "score": sliced_distance(samples, reference).item(),
            "sample_mse": (samples - reference).square().mean().item(),
            "colour_drift": colour_drift(samples, reference).item(),
            "diversity": (spread(diversity) / reference.std()).item(),
        }
        is_best = self.best.offer(scalars["score"], num_done, self.ema.average())
        self.scores.note(scalars, is_best=is_best)
        self.patience.note(is_best=is_best, counts=num_done > self.params.adv_start_steps + self.params.adv_ramp_steps)
        self.alarms.note_validation(num_done, colour_drift=scalars["colour_drift"], diversity=scalars["diversity"])
        return scalars

    def refuse_hopeless(self) -> None:
        """Raise StageError for a student that cannot sample at all: adversarial training would not mend it."""
        held_out = self.data.held_out
        check_can_sample(self.sample_held_out(), held_out.x0, constant=self.data.train.x0.mean(dim=0))

    def sample_held_out(self) -> Float[Tensor, "held_out c h w"]:
        """The student's samples from the held-out pairs' noise, at its own number of steps."""
        return self._sample(self.data.held_out.noise, self.data.held_out.rows)

    def sample_few_prompts(self) -> Float[Tensor, "prompts seeds c h w"]:
        """The student's samples of a few held-out prompts, each from the same few noises."""
        rows = self.data.held_out.rows.unique()[:DIVERSITY_PROMPTS]
        generator = step_generator(self.params.seed, 0, DIVERSITY_STREAM)
        noise = torch.randn(DIVERSITY_SEEDS, *self.bundle.latent_shape, generator=generator)
        samples = self._sample(noise.repeat(len(rows), 1, 1, 1), rows.repeat_interleave(DIVERSITY_SEEDS))
        return samples.unflatten(0, (len(rows), DIVERSITY_SEEDS))

    @property
    def num_skipped(self) -> int:
        """Updates of either side that were skipped because a gradient was not finite."""
        return self.learner.guard.num_skipped + self.judge.guard.num_skipped

    def metrics(self) -> dict[str, float | int]:
        """The scores of the student at the start and at its best, and what was skipped."""
        return {
            "best_step": self.best.step,
            "discriminator_params": sum(item.numel() for item in self.critics.heads.parameters()),
            "skipped": self.num_skipped,
            **self.alarms.metrics(),
            **(self.distiller.image_text.metrics() if self.distiller.image_text else {}),
            **self.scores.values,
        }

    def _sample(self, noise: Float[Tensor, "batch c h w"], rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        return sample_shared(
            as_drawn(self.student, self.precision),
            bundle=self.bundle,
            noise=noise,
            prompt_embeds=self.data.prompt_embeds[rows],
            sampler=self.sampler,
            seed=self.params.seed,
        )


def adv_weight_at(step: int, params: Add) -> float:
    """Zero for `adv_start_steps`, then a linear ramp of `adv_ramp_steps` to `adv_weight`."""
    since_start = step + 1 - params.adv_start_steps
    ramp = min(1.0, since_start / max(1, params.adv_ramp_steps)) if since_start > 0 else 0.0
    return params.adv_weight * ramp


def training_precision(precision: Precision) -> Precision:
    """bf16 where half precision is asked for: fp16 needs a gradient scaler, which two losses must not share."""
    return "fp32" if precision == "fp32" else "bf16"
