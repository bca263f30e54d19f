"""The student and its guided teacher as functions of (x_t, t, prompt), which both methods of `add` train with."""

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import alphas_cumprod, x0_from_noise_pred
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred


class Denoisers:
    """Noise predictions (epsilon) and the x0 that they imply, fp32. Only the student's have a gradient."""

    def __init__(
        self,
        student: UNet2DConditionModel,
        bundle: ModelBundle,
        *,
        negative_embeds: Float[Tensor, "1 tokens width"],
        guidance_scale: float,
        accelerator: Accelerator,
    ) -> None:
        self.student, self.teacher, self.guidance_scale = student, bundle.unet, guidance_scale
        self.alphas_cumprod = alphas_cumprod(bundle.scheduler).to(bundle.device)
        self._negative_embeds, self._accelerator = negative_embeds.to(bundle.device), accelerator

    def student_noise(
        self,
        noisy_latents: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:
        """The student's prediction of the noise, without guidance, which is distilled into its weights."""
        with self._accelerator.autocast():
            return noise_pred(self.student, noisy_latents, timesteps, prompt_embeds)

    def student_x0(
        self,
        noisy_latents: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:
        """The student's prediction of x0, without guidance, which is distilled into its weights."""
        noise = self.student_noise(noisy_latents, timesteps, prompt_embeds)
        return x0_from_noise_pred(noisy_latents, noise, timesteps, alphas_cumprod=self.alphas_cumprod)

    @torch.no_grad()
    def teacher_noise(
        self,
        noisy_latents: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:
        """The teacher's prediction of the noise with classifier-free guidance."""
        return guided_noise_pred(
            self.teacher,
            noisy_latents,
            timesteps,
            prompt_embeds=prompt_embeds,
            negative_embeds=self._negative_embeds,
            guidance_scale=self.guidance_scale,
        )

    @torch.no_grad()
    def teacher_x0(
        self,
        noisy_latents: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, " batch"],
        prompt_embeds: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:
        """The teacher's prediction of x0 with classifier-free guidance."""
        noise = self.teacher_noise(noisy_latents, timesteps, prompt_embeds)
        return x0_from_noise_pred(noisy_latents, noise, timesteps, alphas_cumprod=self.alphas_cumprod)
