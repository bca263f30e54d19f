"""One step of adversarial diffusion distillation, and all the state it has.

Of the teacher, a step costs one forward pass of features on the reals, one forward and backward pass on the fakes (the
discriminator's update reuses them), and a guided call on a part of the batch.
"""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.compute import Precision
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.params import Add, StudentScheduler
from naruto_add.runtime import StageError
from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE
from naruto_add.training.add.critics import Critics, detached
from naruto_add.training.add.distillation_run import DistillationRun
from naruto_add.training.add.distiller import Distiller
from naruto_add.training.add.image_text import ImageText
from naruto_add.training.add.inputs import AddData, Batch, Pictures, draw_batch, draw_unseen, judged_weights, pairs_at
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.learner import Learner
from naruto_add.training.sharing import means


class AddRun(DistillationRun):
    """`add.method: adversarial`: student, frozen teacher, discriminator, and the optimizers of the two that learn."""

    ADVICE = "lower add.learning_rate or add.adv_weight"
    ALARM_ADVICE = ADVERSARIAL_ADVICE

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
        super().__init__(
            bundle, student, data=data, params=params, student_scheduler=student_scheduler, precision=precision
        )
        self._check_parts()
        self.critics = Critics(bundle, params=params, pooled_width=data.pooled.shape[1])
        self.distiller = Distiller(
            student,
            bundle,
            negative_embeds=data.prompt_embeds[:1],
            params=params,
            guidance_scale=guidance_scale,
            student_scheduler=student_scheduler,
            accelerator=self.accelerator,
            image_text=image_text,
        )
        self.judge = Learner(
            self.critics.heads,
            self.accelerator,
            params=params,
            learning_rate=params.discriminator_learning_rate,
            betas=(0.0, 0.999),
            advice="lower add.discriminator_learning_rate",
        )

    def state(self) -> dict[str, Stateful]:
        """The discriminator's too."""
        return {
            **super().state(),
            "discriminator": self.judge,
            "heads": self.critics.heads,  # buffers too: a spectral norm's power iteration
            "augment": self.critics.strength,
        }

    def is_settled(self, num_done: int) -> bool:
        """Once the adversarial loss is at full weight."""
        return num_done > self.params.adv_start_steps + self.params.adv_ramp_steps

    @property
    def num_skipped(self) -> int:
        """Updates of either side that were skipped because a gradient was not finite."""
        return super().num_skipped + self.judge.guard.num_skipped

    def metrics(self) -> dict[str, float | int]:
        """The discriminator's size and the image-text network's figures too."""
        return {
            **super().metrics(),
            "discriminator_params": sum(item.numel() for item in self.critics.heads.parameters()),
            **(self.distiller.image_text.metrics() if self.distiller.image_text else {}),
        }

    def train_step(self, step: int) -> Scalars:
        """One update of the student and one of the discriminator, both on the same fakes."""
        batch = draw_batch(self.data, self.params, step=step)
        unseen = draw_unseen(self.data, self.params, step=step) if self._asks_about_unseen(step) else None
        weights = Weights(distill=distill_weight_at(step, self.params), adv=adv_weight_at(step, self.params))
        self.critics.renew_norms()
        rows = []
        for part in self.parts:
            unseen_part = None if unseen is None else unseen.part(part)
            rows.append(self._learn_from(batch.part(part, self.bundle.device), weights, unseen_part))
        norms = {"student_grad_norm": self.learner.step(), "discriminator_grad_norm": self.judge.step()}
        scalars = means(rows)
        if unseen is not None:
            self.critics.strength.adapt(seen=scalars.pop("seen"), unseen=scalars.pop("unseen"))
        self.alarms.note_step(step + 1, scalars)
        own = {"adv_weight": weights.adv, "skipped_steps": float(self.num_skipped), **self.critics.strength.scalars()}
        return {**scalars, **own, **norms}

    def _check_parts(self) -> None:
        """Each part of a batch must have something to judge: processes exchange gradients of the same weights."""
        value, sizes = self.params.judged_fraction, len(range(self.params.batch_size)[self.parts[0]])
        of_all_processes = judged_weights(self.params).view(-1, sizes)  # none shall wait for another
        if of_all_processes.any(dim=1).all():
            return
        raise StageError(
            f"add.judged_fraction: {value} leaves a part of {sizes} items with nothing to judge; raise it, or "
            "add.batch_size"
        )

    def _asks_about_unseen(self, step: int) -> bool:
        """Only at the base model's picture size, which unseen pictures have."""
        is_base_size = pairs_at(self.data, seed=self.params.seed, step=step) is self.data.train
        return is_base_size and self.critics.strength.is_due(step)

    def _learn_from(self, batch: Batch, weights: "Weights", unseen: Pictures | None) -> dict[str, Tensor]:
        """Gradients of both sides on one part of a batch; the discriminator's updates reuse the student's fakes."""
        noisy = self.distiller.student_inputs(batch)
        x0_student = self.distiller.x0_of(noisy, batch)
        losses = self.distiller.losses(x0_student, batch, pair_target=self.distiller.pair_target(noisy, batch))
        judged = self._judged_losses(x0_student, batch, weights.adv, unseen)
        loss = weights.distill * losses["distill_loss"] + weights.adv * judged["adv_loss"]
        if "perceptual_loss" in losses:
            loss = loss + self.params.perceptual_weight * losses["perceptual_loss"]
        if "image_text_loss" in losses:
            loss = loss + self.params.image_text_weight * losses["image_text_loss"]
        self.learner.backward(loss)
        self.judge.backward(judged["disc_loss"] + self.params.r1_weight * judged["r1_penalty"])
        return {**losses, **judged}

    def _judged_losses(
        self, x0_student: Tensor, batch: Batch, adv_weight: float, unseen: Pictures | None
    ) -> dict[str, Tensor]:
        """The losses of both sides over the items that are judged, whose weights make parts add up to the batch."""
        (chosen,) = torch.where(batch.judged_weight > 0)
        part = batch.part(chosen)
        with torch.set_grad_enabled(adv_weight > 0):
            fake_features = self.critics.features(x0_student[chosen], part.prompt_embeds, part)
        adv_loss = self.critics.adversarial_loss(fake_features, part.pooled)
        verdict = self.critics.discriminator_losses(detached(fake_features), part)
        signs = (
            {} if unseen is None else self.critics.signs(verdict, unseen.part(chosen.cpu()), data=self.data, batch=part)
        )
        share = batch.judged_weight.mean()
        return {name: share * value for name, value in {"adv_loss": adv_loss, **verdict.scalars(), **signs}.items()}


@dataclass(frozen=True)
class Weights:
    """Of the two losses whose share changes as training goes on."""

    distill: float
    adv: float


def distill_weight_at(step: int, params: Add) -> float:
    """`distill_weight` at the first step, `distill_final_share` of it at the last, in a straight line between."""
    progress = step / max(1, params.num_steps - 1)
    return params.distill_weight * (1 + progress * (params.distill_final_share - 1))


def adv_weight_at(step: int, params: Add) -> float:
    """Zero for `adv_start_steps`, then a linear ramp of `adv_ramp_steps` to `adv_weight`."""
    since_start = step + 1 - params.adv_start_steps
    ramp = min(1.0, since_start / max(1, params.adv_ramp_steps)) if since_start > 0 else 0.0
    return params.adv_weight * ramp
