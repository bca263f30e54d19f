"""The student's side of adversarial distillation: its inputs, its x0, and the two distillation losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.config.schema import StudentScheduler
from naruto_add.diffusion.noise import (
    add_noise,
    add_noise_zero_terminal_snr,
    noise_pred_to_reach,
    snr,
    step_shift,
    x0_from_noise_pred,
)
from naruto_add.losses.distillation import smooth_l1_distillation
from naruto_add.training.add.batch import Batch
from naruto_add.training.add.denoisers import Denoisers


class StudentObjective:
    """Computes the student's x0 of a batch and its distance to the teacher; it has no state that changes.

    With student_scheduler ddim the student follows the teacher's trajectory, and the losses compare next states. With
    lcm it leaves the trajectory, because new noise is added between steps, and the losses compare x0.
    """

    def __init__(
        self, denoisers: Denoisers, *, student_timesteps: list[int], student_scheduler: StudentScheduler
    ) -> None:
        self.denoisers, self.student_timesteps = denoisers, student_timesteps
        self.student_scheduler = student_scheduler
        self.alphas_cumprod = denoisers.alphas_cumprod
        self.stride = NUM_TRAIN_TIMESTEPS // len(student_timesteps)

    @property
    def follows_trajectory(self) -> bool:
        """Whether the student's sampler visits the states of the teacher's trajectory."""
        return self.student_scheduler == "ddim"

    def student_inputs(self, batch: Batch) -> Float[Tensor, "batch c h w"]:
        """x_t: the teacher's state, or noised x0 with lcm; for rollout items the student's own state."""
        given = self._trajectory_state(batch, 0) if self.follows_trajectory else self._noised_x0(batch)
        return torch.where(batch.is_rollout.view(-1, 1, 1, 1), self.rollout(batch), given)

    @torch.no_grad()
    def rollout(self, batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The states that the student's sampler reaches from the batch's noise at each item's timestep.

        Items that are not rollouts keep their noise. Backward simulation: Yin et al. 2024 (DMD2), section 4.5.
        """
        latents = batch.noise.clone()
        for index, (now, later) in enumerate(zip(self.student_timesteps, self.student_timesteps[1:], strict=False)):
            (active,) = torch.where(batch.is_rollout & (batch.step_index > index))
            if not len(active):
                break
            now_steps, later_steps = active.new_full((len(active),), now), active.new_full((len(active),), later)
            noise = self.denoisers.student_noise(latents[active], now_steps, batch.prompt_embeds[active])
            x0 = x0_from_noise_pred(latents[active], noise, now_steps, alphas_cumprod=self.alphas_cumprod)
            if self.student_scheduler == "lcm":
                noise = batch.fresh_noise[active, index + 1]
            latents[active] = add_noise(x0, noise, later_steps, alphas_cumprod=self.alphas_cumprod)
        return latents

    def predict_x0(self, inputs: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The student's x0 of `inputs` at the batch's timesteps, with a gradient."""
        return self.denoisers.student_x0(inputs, self._timesteps(batch), batch.prompt_embeds)

    def pair_target(self, inputs: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The x0 with which a DDIM step leads from `inputs` to the teacher's next state; with lcm, the teacher's x0."""
        if not self.follows_trajectory:
            return batch.x0
        timesteps, next_state = self._timesteps(batch), self._trajectory_state(batch, 1)
        noise = noise_pred_to_reach(
            next_state, inputs, timesteps, stride=self.stride, alphas_cumprod=self.alphas_cumprod
        )
        return x0_from_noise_pred(inputs, noise, timesteps, alphas_cumprod=self.alphas_cumprod)

    def pair_loss(
        self, x0_student: Float[Tensor, "batch c h w"], x0_target: Float[Tensor, "batch c h w"], batch: Batch
    ) -> Float[Tensor, ""]:
        """Distance of the next states that the student's x0 and `pair_target` lead to; with lcm, of the x0."""
        scale = self._next_state_per_x0(batch).view(-1, 1, 1, 1)
        return smooth_l1_distillation(scale * x0_student, scale * x0_target, torch.ones_like(batch.renoised_weight))

    def renoised_loss(self, x0_student: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, ""]:
        """Distance of the student's x0 to the teacher's prediction from it with new noise, weighted by alpha_t.

        Sauer et al. 2023, eq. 4, with c(t) = alpha_t, in latents; of the items with a `renoised_weight` above 0.
        """
        (chosen,) = torch.where(batch.renoised_weight > 0)
        if not len(chosen):
            return x0_student.new_zeros(())
        part = batch.part(chosen)
        x0_teacher = self.renoised_target(x0_student[chosen], part)
        weight = part.renoised_weight * self.alphas_cumprod[part.renoised_timesteps].sqrt()
        share = len(chosen) / len(x0_student)
        return share * smooth_l1_distillation(x0_student[chosen], x0_teacher, weight)

    @torch.no_grad()
    def renoised_target(self, x0_student: Float[Tensor, "batch c h w"], batch: Batch) -> Float[Tensor, "batch c h w"]:
        """The guided teacher's x0 from the student's x0 with noise added for the batch's `renoised_timesteps`."""
        timesteps = batch.renoised_timesteps
        noisy = add_noise(x0_student, batch.renoised_noise, timesteps, alphas_cumprod=self.alphas_cumprod)
        return self.denoisers.teacher_x0(noisy, timesteps, batch.prompt_embeds)

    def _trajectory_state(self, batch: Batch, num_ahead: int) -> Tensor:
        """The teacher's state, `num_ahead` of the student's steps after each item's timestep."""
        trajectory = torch.cat([batch.noise[:, None], batch.states, batch.x0[:, None]], dim=1)
        return trajectory[torch.arange(len(trajectory), device=trajectory.device), batch.step_index + num_ahead]

    def _noised_x0(self, batch: Batch) -> Tensor:
        is_first = (batch.step_index == 0).view(-1, 1, 1, 1)
        noise = torch.where(is_first, batch.noise, batch.fresh_noise[:, 0])
        return add_noise_zero_terminal_snr(batch.x0, noise, self._timesteps(batch), alphas_cumprod=self.alphas_cumprod)

    def _next_state_per_x0(self, batch: Batch) -> Float[Tensor, " batch"]:
        """The change of the next state per change of x0: 1 with lcm; with ddim in four steps, from 0.17 to 1."""
        if not self.follows_trajectory:
            return torch.ones_like(batch.renoised_weight)
        timesteps = self._timesteps(batch)
        shift = step_shift(timesteps, stride=self.stride, alphas_cumprod=self.alphas_cumprod)
        return shift * snr(timesteps, alphas_cumprod=self.alphas_cumprod).sqrt()

    def _timesteps(self, batch: Batch) -> Int[Tensor, " batch"]:
        return torch.tensor(self.student_timesteps, device=batch.step_index.device)[batch.step_index]
