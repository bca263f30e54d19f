"""One step of adversarial diffusion distillation, and all the state it has.

Of the teacher, a step costs one forward pass of features on the reals, one forward and backward pass on the fakes (the
discriminator's update reuses them), and a guided call on a part of the batch.
"""

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import Precision, make_accelerator, step_generator
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, noisy_at_trained, x0_from_noise_pred
from naruto_add.diffusion.sampling import Sampler, guided_noise_pred, make_student_scheduler, noise_pred, sample_latents
from naruto_add.losses.distillation import smooth_l1_distillation
from naruto_add.models.backbones import load_backbone
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add_alarms import Alarms
from naruto_add.training.add_critics import Critics, Features, detached
from naruto_add.training.add_inputs import AddData, Batch, draw_batch, draw_unseen
from naruto_add.training.add_pixels import perceptual_loss
from naruto_add.training.add_state import Patience, Scores
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.learner import Learner
from naruto_add.training.scores import check_can_sample, colour_drift, sliced_distance, spread
from naruto_add.training.weights import Best, Ema, as_drawn

VALIDATION_STREAM = 1
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
    ) -> None:
        self.bundle, self.student, self.data, self.params = bundle, student, data, params
        self.guidance_scale, self.student_scheduler = guidance_scale, student_scheduler
        self.precision, self.accelerator = precision, make_accelerator(training_precision(precision))
        scheduler = make_student_scheduler(bundle.scheduler, student_scheduler, len(params.timesteps))
        self._sampler = Sampler(scheduler, len(params.timesteps), guidance_scale=1.0)
        self.alphas_cumprod = alphas_cumprod(bundle.scheduler).to(bundle.device)
        self.negative_embeds = data.prompt_embeds[:1].to(bundle.device)
        self.critics = Critics(bundle, params=params, pooled_width=data.pooled.shape[1])
        if params.perceptual_weight:
            self.backbone = load_backbone("efficientnet_lite0", bundle.device)
        self.ema = Ema(student, params.ema_decay)
        self.learner = Learner(
            student,
            self.accelerator,
            params=params,
            learning_rate=params.learning_rate,
            ema=self.ema,
            advice="lower add.learning_rate or add.adv_weight",
        )
        self.judge = Learner(
            self.critics.heads,
            self.accelerator,
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
        batch = draw_batch(self.data, self.params, step=step).to(self.bundle.device)
        adv_weight = adv_weight_at(step, self.params)
        timesteps = self._timesteps(batch)
        x0_student = self.predict_x0(self.student_inputs(batch), timesteps, batch.prompt_embeds)
        with torch.set_grad_enabled(adv_weight > 0):
            fake_features = self.critics.features(x0_student, batch.prompt_embeds, batch)
        pair_loss, renoised_loss = self.distillation_losses(x0_student, batch)
        adv_loss = self.critics.adversarial_loss(fake_features, batch.pooled)
        distill_loss = self.params.pair_weight * pair_loss + self.params.renoised_weight * renoised_loss
        loss = self.params.distill_weight * distill_loss + adv_weight * adv_loss
        perceptual: dict[str, float] = {}
        if self.params.perceptual_weight:
            pixel_loss = self.perceptual_loss(x0_student, batch)
            loss = loss + self.params.perceptual_weight * pixel_loss
            perceptual = {"perceptual_loss": pixel_loss.item()}
        student_norm = self.learner.update(loss)
        scalars, discriminator_norm = self._train_discriminator(detached(fake_features), batch, step=step)
        self.alarms.note_step(step + 1, scalars)
        return {
            "distill_loss": distill_loss.item(),
            "adv_loss": adv_loss.item(),
            **scalars,
            "pair_loss": pair_loss.item(),
            "renoised_loss": renoised_loss.item(),
            **perceptual,
            "adv_weight": adv_weight,
            "student_grad_norm": student_norm,
            "discriminator_grad_norm": discriminator_norm,
            "skipped": float(self.num_skipped),
        }

    def student_inputs(self, batch: Batch) -> Float[Tensor, "batch c h w"]:
        """x_t: teacher samples noised again, and the student's own way from pure noise; pure noise at t = 999.

        For `ddim` both keep the pair's own noise, which is also what the deterministic sampler carries along, so that
        the stored x0 stays the teacher's answer; for `lcm` both are noised afresh, as that sampler does.
        """
        timesteps = self._timesteps(batch)
        fresh = batch.fresh_noise[0] if self.student_scheduler == "lcm" else batch.noise
        noise = torch.where((batch.step_index == 0).view(-1, 1, 1, 1), batch.noise, fresh)
        noisy = noisy_at_trained(batch.x0, noise, timesteps, alphas_cumprod=self.alphas_cumprod)
        return torch.where(batch.is_rollout.view(-1, 1, 1, 1), self.rollout(batch), noisy)

    @torch.no_grad()
    def rollout(self, batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The student's own x_t at every item's timestep, drawn from its stored noise (backward simulation).

        Items that are not to be rolled out keep their noise. Step by step what the student's scheduler does.
        """
        latents = batch.noise.clone()
        for index, (now, later) in enumerate(zip(self.params.timesteps, self.params.timesteps[1:], strict=False)):
            (active,) = torch.where(batch.is_rollout & (batch.step_index > index))
            if not len(active):
                break
            now_steps, later_steps = active.new_full((len(active),), now), active.new_full((len(active),), later)
            noise = self._predict_noise(latents[active], now_steps, batch.prompt_embeds[active])
            x0 = x0_from_noise_pred(latents[active], noise, now_steps, alphas_cumprod=self.alphas_cumprod)
            if self.student_scheduler == "lcm":
                noise = batch.fresh_noise[index + 1, active]
            latents[active] = add_noise(x0, noise, later_steps, alphas_cumprod=self.alphas_cumprod)
        return latents

    def predict_x0(
        self,
        noisy_latents: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:
        """The student's x0, fp32, with a gradient."""
        noise = self._predict_noise(noisy_latents, timesteps, prompt_embeds)
        return x0_from_noise_pred(noisy_latents, noise, timesteps, alphas_cumprod=self.alphas_cumprod)

    def distillation_losses(
        self, x0_student: Float[Tensor, "batch c h w"], batch: Batch
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Distance to the guided teacher's stored sample, and to one guided teacher step from the noised x0_student.

        The latter is the paper's (Sauer et al. 2023, eq. 4) with its c(t) = alpha_t, in latents instead of pixels.
        """
        pair_loss = smooth_l1_distillation(x0_student, batch.x0, torch.ones_like(x0_student[:, 0, 0, 0]))
        num_renoised = len(batch.renoised_timesteps)
        if not num_renoised:
            return pair_loss, torch.zeros_like(pair_loss)
        x0_teacher = self.teacher_x0(x0_student[:num_renoised], batch)
        weight = self.alphas_cumprod[batch.renoised_timesteps].sqrt()
        return pair_loss, smooth_l1_distillation(x0_student[:num_renoised], x0_teacher, weight)

    @torch.no_grad()
    def teacher_x0(self, x0_student: Float[Tensor, "renoised c h w"], batch: Batch) -> Float[Tensor, "renoised c h w"]:
        """The guided teacher's x0, one step from the student's, noised to the batch's `renoised_timesteps`."""
        timesteps = batch.renoised_timesteps
        noisy = add_noise(x0_student, batch.renoised_noise, timesteps, alphas_cumprod=self.alphas_cumprod)
        noise = guided_noise_pred(
            self.bundle.unet,
            noisy,
            timesteps,
            prompt_embeds=batch.prompt_embeds[: len(noisy)],
            negative_embeds=self.negative_embeds,
            guidance_scale=self.guidance_scale,
        )
        return x0_from_noise_pred(noisy, noise, timesteps, alphas_cumprod=self.alphas_cumprod)

    def perceptual_loss(self, x0_student: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, ""]:
        """How different the decoded student's squares look from those of the teacher's stored sample."""
        return perceptual_loss(
            self.bundle.vae,
            self.backbone,
            x0_student,
            batch.x0,
            corner=batch.crop_corner,
            side_px=self.params.perceptual_crop_px,
        )

    def validate(self, num_done: int) -> Scalars:
        """Sample the averaged student from held-out noise as users will, score it, and keep the best."""
        with self.ema.applied():
            samples = self.sample_held_out()
            diversity = self.sample_few_prompts()
        reference = self.data.held_out.x0.to(samples.device)
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
        check_can_sample(self.sample_held_out().cpu(), held_out.x0, constant=self.data.train.x0.mean(dim=0))

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
            **self.scores.values,
        }

    def _sample(self, noise: Float[Tensor, "batch c h w"], rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        return sample_latents(
            as_drawn(self.student, self.precision),
            noise=noise.to(self.bundle.device),
            prompt_embeds=self.data.prompt_embeds[rows].to(self.bundle.device),
            negative_embeds=self.negative_embeds,
            sampler=self._sampler,
            generator=step_generator(self.params.seed, 0, VALIDATION_STREAM),
        )

    def _timesteps(self, batch: Batch) -> Int[Tensor, " batch"]:
        return torch.tensor(self.params.timesteps, device=batch.step_index.device)[batch.step_index]

    def _predict_noise(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return noise_pred(self.student, noisy_latents, timesteps, prompt_embeds)

    def _train_discriminator(
        self, fake_features: Features, batch: Batch, *, step: int
    ) -> tuple[dict[str, float], float | None]:
        """Its scalars, and its gradients' norm."""
        verdict = self.critics.discriminator_losses(fake_features, batch)
        norm = self.judge.update(verdict.hinge + self.params.r1_weight * verdict.penalty)
        if self.critics.strength.is_due(step):
            unseen = draw_unseen(self.data, self.params, step=step)
            self.critics.adapt_augment(verdict.real, unseen, data=self.data, batch=batch)
        scalars = {
            "disc_loss": verdict.hinge.item(),
            "real_logit": torch.stack([item.mean() for item in verdict.real]).mean().item(),
            "fake_logit": torch.stack([item.mean() for item in verdict.fake]).mean().item(),
            "r1_penalty": verdict.penalty.item(),
            **self.critics.strength.scalars(),
        }
        return scalars, norm


def adv_weight_at(step: int, params: Add) -> float:
    """Zero for `adv_start_steps`, then a linear ramp of `adv_ramp_steps` to `adv_weight`."""
    since_start = step + 1 - params.adv_start_steps
    ramp = min(1.0, since_start / max(1, params.adv_ramp_steps)) if since_start > 0 else 0.0
    return params.adv_weight * ramp


def training_precision(precision: Precision) -> Precision:
    """bf16 where half precision is asked for: fp16 needs a gradient scaler, which two losses must not share."""
    return "fp32" if precision == "fp32" else "bf16"
