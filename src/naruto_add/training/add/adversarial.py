"""Adversarial diffusion distillation: of pictures (ADD, Sauer et al. 2023), of latents (LADD, 2024), or of both."""

from dataclasses import fields

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from naruto_add.config.schema import Add, StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE
from naruto_add.training.add.balance import GradientBalance, gradient
from naruto_add.training.add.batch import Batch, draw_batch
from naruto_add.training.add.crop_losses import CropLosses
from naruto_add.training.add.dataset import AddData
from naruto_add.training.add.discriminators import DiscriminatorLosses, Discriminators, discriminator_optimizer
from naruto_add.training.add.image_text import ImageText
from naruto_add.training.add.objective import StudentObjective
from naruto_add.training.add.trainer import DistillationTrainer
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.learner import Learner
from naruto_add.training.processes import means
from naruto_add.training.settings import DistillationSettings


class AdversarialTrainer(DistillationTrainer):
    """`add.method: adversarial`. The student and the discriminators' heads are trained; all else is frozen."""

    ADVICE = "lower add.optimizer.learning_rate or add.adv_weight"
    ALARM_ADVICE = ADVERSARIAL_ADVICE

    def __init__(
        self,
        bundle: ModelBundle,
        student: UNet2DConditionModel,
        *,
        data: AddData,
        params: Add,
        settings: DistillationSettings,
        student_scheduler: StudentScheduler,
        image_text: ImageText | None = None,
    ) -> None:
        super().__init__(
            bundle, student, data=data, params=params, settings=settings, student_scheduler=student_scheduler
        )
        self.objective = StudentObjective(
            self.denoisers, student_timesteps=settings.student_timesteps, student_scheduler=student_scheduler
        )
        self.image_text = image_text
        if "pixel" in params.discriminators or params.perceptual_weight or params.image_text_weight:
            bundle.vae.to(bundle.device)  # crops are decoded in every step
        self.crop_losses = CropLosses(bundle.vae, params=params, image_text=image_text, device=bundle.device)
        self.discriminators = Discriminators(bundle, params=params, pooled_width=data.pooled.shape[1])
        self.balance = GradientBalance()
        self.discriminator_learner = Learner(
            self.discriminators.heads,
            self.accelerator,
            section="add",
            optimizer=discriminator_optimizer(params.optimizer),
            learning_rate=params.discriminator_learning_rate,
            num_steps=params.num_steps,
            accumulation_steps=params.accumulation_steps,
            betas=(0.0, 0.999),
            advice="lower add.discriminator_learning_rate",
        )

    def train_step(self, step: int) -> Scalars:
        """One update of the student and one of the discriminators, with the same generated latents."""
        batch, adv_weight = draw_batch(self.data, self.params, step=step), adv_weight_at(step, self.params)
        scale = adv_weight * self.balance.scale
        self.discriminators.update_spectral_norms()
        rows = [
            self._accumulate_gradients(batch.part(part, self.bundle.device), adv_scale=scale if adv_weight else None)
            for part in self.parts
        ]
        norms = {"student_grad_norm": self.learner.step(), "discriminator_grad_norm": self.discriminator_learner.step()}
        scalars = means(rows)
        self.balance.note(**{name: scalars.pop(f"{name}_squared_norm") for name in ("distill", "adversarial")})
        self.alarms.note_step(step + 1, scalars)
        return {**scalars, "adv_scale": scale, "skipped_steps": float(self.num_skipped), **norms}

    def _accumulate_gradients(self, batch: Batch, *, adv_scale: float | None) -> dict[str, Float[Tensor, ""]]:
        """Add the gradients of all losses on a part of the batch (Sauer et al. 2023, eq. 1 to 4); return the losses.

        `adv_scale` is the factor of the adversarial loss, or None if its gradient is not needed; it is 0 in the step
        that first measures the gradient. Adversarial losses and losses on crops are means over the items that the
        discriminators are shown. Multiplied by the mean `discriminator_weight`, their mean over the parts of a batch
        equals that over the batch. Among the returned losses are the squared norms of two gradients, for
        `GradientBalance`.
        """
        inputs = self.objective.student_inputs(batch)
        prediction = self.objective.predict_x0(inputs, batch)
        x0_student = prediction.detach().requires_grad_()  # the gradient stops here, and is then passed on as a whole
        x0_target = self.objective.pair_target(inputs, batch)

        pair_loss = self.objective.pair_loss(x0_student, x0_target, batch)
        renoised_loss = self.objective.renoised_loss(x0_student, batch)
        distill_loss = pair_loss + self.params.renoised_weight * renoised_loss

        of_shown = self._losses_of_shown(x0_student, x0_target, batch, is_adversarial=adv_scale is not None)
        share = batch.discriminator_weight.mean()
        losses = {"distill_loss": distill_loss, "pair_loss": pair_loss, "renoised_loss": renoised_loss}
        losses |= {name: share * value for name, value in of_shown.items()}

        by_crops = gradient(self.crop_losses.weighted_sum(losses), x0_student)
        by_teacher, by_discriminators = (gradient(losses[name], x0_student) for name in ("distill_loss", "adv_loss"))
        total = self.params.distill_weight * by_teacher + (adv_scale or 0.0) * by_discriminators + by_crops
        self.learner.backward((prediction * total).sum())  # the gradient of this sum with respect to x0 is `total`
        self.discriminator_learner.backward(losses["disc_loss"] + self.params.r1_weight * losses["r1_penalty"])
        norms = {
            "distill_squared_norm": by_teacher.square().sum(),
            "adversarial_squared_norm": by_discriminators.square().sum(),
        }
        return losses | norms

    def _losses_of_shown(
        self,
        x0_student: Float[Tensor, "batch c h w"],
        x0_target: Float[Tensor, "batch c h w"],
        batch: Batch,
        *,
        is_adversarial: bool,
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses on the items that the discriminators are shown; 0 for a part of the batch without any."""
        (shown,) = torch.where(batch.discriminator_weight > 0)
        if not len(shown):
            names = (*self.crop_losses.names, "adv_loss", *(field.name for field in fields(DiscriminatorLosses)))
            return dict.fromkeys(names, x0_student.new_zeros(())) | {"disc_loss": self._zero()}
        items = batch.part(shown)
        crop_losses = self.crop_losses(x0_student[shown], x0_target[shown], items)
        fakes = (x0_student if is_adversarial else x0_student.detach())[shown]  # an unused gradient takes time
        fake_features = self.discriminators.features(fakes, items.prompt_embeds, items)
        adv_loss = self.discriminators.adversarial_loss(fake_features, items.pooled)
        return {**crop_losses, "adv_loss": adv_loss, **vars(self.discriminators.losses(fake_features, items))}

    def _zero(self) -> Float[Tensor, ""]:
        """0 with a gradient of 0 for every weight of the heads: processes average gradients that all of them have."""
        return 0.0 * torch.stack([weight.sum() for weight in self.discriminators.heads.parameters()]).sum()

    @property
    def num_skipped(self) -> int:
        """The number of updates of the student and of the discriminators skipped for gradients that are not finite."""
        return super().num_skipped + self.discriminator_learner.guard.num_skipped

    def state(self) -> dict[str, Stateful]:
        """What a checkpoint needs, with the state of the discriminators."""
        return {
            **super().state(),
            "discriminator": self.discriminator_learner,
            "balance": self.balance,
            "heads": self.discriminators.heads,  # for their buffers, the vectors of the spectral norms
        }

    def metrics(self) -> dict[str, float | int | str]:
        """In addition, the number of discriminator parameters, and the accuracy of an image-text network."""
        return {
            **super().metrics(),
            "discriminator_params": sum(item.numel() for item in self.discriminators.heads.parameters()),
            **(self.image_text.metrics() if self.image_text else {}),
        }


def adv_weight_at(step: int, params: Add) -> float:
    """0 for `adv_start_steps` steps, then linear over `adv_ramp_steps` to `adv_weight`."""
    since_start = step + 1 - params.adv_start_steps
    ramp = min(1.0, since_start / max(1, params.adv_ramp_steps)) if since_start > 0 else 0.0
    return params.adv_weight * ramp
