"""The student's side of a step: what it is shown, its x0, and how far that is from the teacher's."""

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.conventions import NUM_TRAIN_TIMESTEPS
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import (
    add_noise,
    alphas_cumprod,
    noise_pred_to_reach,
    noisy_at_trained,
    snr,
    step_shift,
    x0_from_noise_pred,
)
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred
from naruto_add.diffusion.solver import solve_x0
from naruto_add.losses.distillation import smooth_l1_distillation
from naruto_add.models.backbones import load_backbone
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add.image_text import ImageText
from naruto_add.training.add.inputs import Batch
from naruto_add.training.add.pixels import decoded_squares, perceptual_loss


class Distiller:
    """The student and its frozen teacher: nothing here changes either."""

    def __init__(
        self,
        student: UNet2DConditionModel,
        bundle: ModelBundle,
        *,
        negative_embeds: Float[Tensor, "1 tokens width"],
        params: Add,
        guidance_scale: float,
        student_scheduler: StudentScheduler,
        accelerator: Accelerator,
        image_text: ImageText | None,
    ) -> None:
        self.student, self.bundle, self.params = student, bundle, params
        self.guidance_scale, self.student_scheduler = guidance_scale, student_scheduler
        self.accelerator, self.negative_embeds = accelerator, negative_embeds.to(bundle.device)
        self.image_text = image_text
        self.alphas_cumprod = alphas_cumprod(bundle.scheduler).to(bundle.device)
        self.stride = NUM_TRAIN_TIMESTEPS // len(params.timesteps)
        if params.perceptual_weight:
            self.backbone = load_backbone("efficientnet_lite0", bundle.device)

    def x0_of(self, noisy_latents: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The student's x0 of what this batch shows it (`student_inputs`), with a gradient."""
        return self.predict_x0(noisy_latents, self._timesteps(batch), batch.prompt_embeds)

    def pair_target(self, noisy_latents: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The x0 that the teacher would have the student answer with.

        Stored: what leads a DDIM step from what the student saw to the teacher's next state, whose last is its sample;
        without states, always the sample. Solved: where the teacher's own way on from there ends.
        """
        if self.params.pair_target == "stored":
            return self._x0_on_way(noisy_latents, batch) if self._has_way(batch) else batch.x0

        def predict_x0(latents: Tensor, timesteps: Tensor) -> Tensor:
            return self._guided_x0(latents, timesteps, batch.prompt_embeds)

        return solve_x0(
            predict_x0,
            noisy_latents,
            self._timesteps(batch),
            num_steps=self.params.solve_steps,
            alphas_cumprod=self.alphas_cumprod,
        )

    def losses(
        self,
        x0_student: Float[Tensor, "batch c h w"],
        batch: Batch,
        *,
        pair_target: Float[Tensor, "batch c h w"],
    ) -> dict[str, Float[Tensor, ""]]:
        """`pair_loss` and `renoised_loss`, both weighted in `distill_loss`, and those of pictures that count.

        The latter are of what discriminators judge: where early x0 are no pictures, they look like nothing.
        """
        pair_loss, renoised_loss = self.distillation_losses(x0_student, batch, pair_target=pair_target)
        distill_loss = self.params.pair_weight * pair_loss + self.params.renoised_weight * renoised_loss
        losses = {"distill_loss": distill_loss, "pair_loss": pair_loss, "renoised_loss": renoised_loss}
        (chosen,) = torch.where(batch.judged_weight > 0)
        share, part, pictures = batch.judged_weight.mean(), batch.part(chosen), x0_student[chosen]
        if self.params.perceptual_weight:
            losses["perceptual_loss"] = share * self.perceptual_loss(pictures, part, pair_target=pair_target[chosen])
        if self.image_text:
            losses["image_text_loss"] = share * self.image_text.loss(
                self.bundle.vae,
                pictures,
                part.prompt_rows,
                corner=part.crop_corner,
                side_px=self.params.image_text_crop_px,
            )
        return losses

    def student_inputs(self, batch: Batch) -> Float[Tensor, "batch c h w"]:
        """x_t: states of the teacher's way, and of the student's own from the same pure noise.

        `lcm` leaves the way between steps: there, and where the pool has no states, samples are noised afresh.
        """
        given = self._way(batch, 0) if self._has_way(batch) else self._noised_afresh(batch)
        return torch.where(batch.is_rollout.view(-1, 1, 1, 1), self.rollout(batch), given)

    def _has_way(self, batch: Batch) -> bool:
        return self.student_scheduler == "ddim" and batch.states.shape[1] == len(self.params.timesteps) - 1

    def _way(self, batch: Batch, num_ahead: int) -> Tensor:
        """The teacher's state so many of the student's steps ahead of each item's own."""
        way = torch.cat([batch.noise[:, None], batch.states, batch.x0[:, None]], dim=1)
        return way[torch.arange(len(way), device=way.device), batch.step_index + num_ahead]

    def _x0_on_way(self, noisy_latents: Tensor, batch: Batch) -> Tensor:
        timesteps, bar = self._timesteps(batch), self.alphas_cumprod
        noise = noise_pred_to_reach(
            self._way(batch, 1), noisy_latents, timesteps, stride=self.stride, alphas_cumprod=bar
        )
        return x0_from_noise_pred(noisy_latents, noise, timesteps, alphas_cumprod=bar)

    def _noised_afresh(self, batch: Batch) -> Tensor:
        noise = torch.where((batch.step_index == 0).view(-1, 1, 1, 1), batch.noise, batch.fresh_noise[:, 0])
        return noisy_at_trained(batch.x0, noise, self._timesteps(batch), alphas_cumprod=self.alphas_cumprod)

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
                noise = batch.fresh_noise[active, index + 1]
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
        self,
        x0_student: Float[Tensor, "batch c h w"],
        batch: Batch,
        *,
        pair_target: Float[Tensor, "batch c h w"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Distance to `pair_target`, and to one guided teacher step from the noised x0_student.

        On the teacher's way the former is a distance of next states, of which x0 is a share: .17 of it at t = 999, all
        of it at the last. The latter is the paper's (Sauer et al. 2023, eq. 4) with its c(t) = alpha_t, of latents or
        of pixels as there.
        """
        counted = self._share_of_x0(batch).view(-1, 1, 1, 1)
        weight = torch.ones_like(batch.renoised_weight)
        pair_loss = smooth_l1_distillation(counted * x0_student, counted * pair_target, weight)
        (chosen,) = torch.where(batch.renoised_weight > 0)
        if not len(chosen):
            return pair_loss, torch.zeros_like(pair_loss)
        part = batch.part(chosen)
        x0_teacher = self.teacher_x0(x0_student[chosen], part)
        weight = part.renoised_weight * self.alphas_cumprod[part.renoised_timesteps].sqrt()
        share = len(chosen) / len(x0_student)
        student, teacher = self._compared(x0_student[chosen], x0_teacher, part)
        return pair_loss, share * smooth_l1_distillation(student, teacher, weight)

    def _share_of_x0(self, batch: Batch) -> Float[Tensor, " batch"]:
        """How far a unit error in x0 moves what the pair loss compares: the next state on a way, else x0 itself."""
        if self.params.pair_target == "solve" or not self._has_way(batch):
            return torch.ones_like(batch.renoised_weight)
        timesteps = self._timesteps(batch)
        shift = step_shift(timesteps, stride=self.stride, alphas_cumprod=self.alphas_cumprod)
        return shift * snr(timesteps, alphas_cumprod=self.alphas_cumprod).sqrt()

    def _compared(self, x0_student: Tensor, x0_teacher: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both as they are, or decoded squares of both."""
        if self.params.renoised_space == "latent":
            return x0_student, x0_teacher
        vae, corner, side_px = self.bundle.vae, batch.crop_corner, self.params.renoised_crop_px
        with torch.no_grad():
            teacher = decoded_squares(vae, x0_teacher, corner, side_px=side_px)
        return decoded_squares(vae, x0_student, corner, side_px=side_px), teacher

    @torch.no_grad()
    def teacher_x0(self, x0_student: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The guided teacher's x0, one step from the student's, noised to the batch's `renoised_timesteps`."""
        timesteps = batch.renoised_timesteps
        noisy = add_noise(x0_student, batch.renoised_noise, timesteps, alphas_cumprod=self.alphas_cumprod)
        return self._guided_x0(noisy, timesteps, batch.prompt_embeds)

    def perceptual_loss(
        self,
        x0_student: Float[Tensor, "batch c h w"],
        batch: Batch,
        *,
        pair_target: Float[Tensor, "batch c h w"],
    ) -> Float[Tensor, ""]:
        """How different the decoded student's squares look from those of `pair_target`."""
        return perceptual_loss(
            self.bundle.vae,
            self.backbone,
            x0_student,
            pair_target,
            corner=batch.crop_corner,
            side_px=self.params.perceptual_crop_px,
        )

    def _guided_x0(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        noise = guided_noise_pred(
            self.bundle.unet,
            noisy_latents,
            timesteps,
            prompt_embeds=prompt_embeds,
            negative_embeds=self.negative_embeds,
            guidance_scale=self.guidance_scale,
        )
        return x0_from_noise_pred(noisy_latents, noise, timesteps, alphas_cumprod=self.alphas_cumprod)

    def _timesteps(self, batch: Batch) -> Int[Tensor, " batch"]:
        return torch.tensor(self.params.timesteps, device=batch.step_index.device)[batch.step_index]

    def _predict_noise(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return noise_pred(self.student, noisy_latents, timesteps, prompt_embeds)
