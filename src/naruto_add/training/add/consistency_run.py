"""Latent consistency distillation (LCM, Luo et al. 2023): the peer that adversarial distillation is compared with.

The student's x0 is to be the same all along one path of the guided teacher: its answer at one timestep of a grid is
pulled towards its average's answer at the next, where a DDIM step of the teacher leads. Nothing is adversarial.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import Precision, batch_indices, step_generator
from naruto_add.conventions import NUM_TRAIN_TIMESTEPS
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import alphas_cumprod, noisy_at_trained, x0_from_noise_pred
from naruto_add.diffusion.sampling import guided_noise_pred, noise_pred
from naruto_add.diffusion.solver import PredictX0, ddim_step
from naruto_add.losses.distillation import pseudo_huber
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add.alarms import CONSISTENCY_ADVICE
from naruto_add.training.add.distillation_run import DistillationRun
from naruto_add.training.add.inputs import AddData, pairs_at
from naruto_add.training.curves import Scalars
from naruto_add.training.sharing import Items, means

PredictNoise = Callable[[Tensor, Tensor], Tensor]
"""Epsilon that a model sees in x_t at these timesteps."""


@dataclass(frozen=True)
class ConsistencyBatch(Items):
    """What one training step sees, on the CPU: `timesteps` are of the grid, x0 the teacher's samples."""

    x0: Float[Tensor, "batch c h w"]
    noise: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompt_embeds: Float[Tensor, "batch tokens width"]


class ConsistencyRun(DistillationRun):
    """`add.method: consistency`: the student, its average, which it learns from, and the frozen teacher."""

    ADVICE = "lower add.learning_rate"
    ALARM_ADVICE = CONSISTENCY_ADVICE

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
        super().__init__(
            bundle, student, data=data, params=params, student_scheduler=student_scheduler, precision=precision
        )
        self.guidance_scale = guidance_scale
        self.negative_embeds = data.prompt_embeds[:1].to(bundle.device)
        self.alphas_cumprod = alphas_cumprod(bundle.scheduler).to(bundle.device)

    def train_step(self, step: int) -> Scalars:
        """One update of the student."""
        batch = draw_consistency_batch(self.data, self.params, step=step)
        rows = []
        for part in self.parts:
            loss = self.loss(batch.part(part, self.bundle.device))
            self.learner.backward(loss)
            rows.append({"consistency_loss": loss})
        norm = self.learner.step()
        return {**means(rows), "skipped_steps": float(self.num_skipped), "student_grad_norm": norm}

    def loss(self, batch: ConsistencyBatch) -> Float[Tensor, ""]:
        """The consistency loss of this part of a batch, with a gradient to the student alone."""

        def student_x0(latents: Tensor, timesteps: Tensor) -> Tensor:
            with self.accelerator.autocast():
                noise = noise_pred(self.student, latents, timesteps, batch.prompt_embeds)
            return x0_from_noise_pred(latents, noise, timesteps, alphas_cumprod=self.alphas_cumprod)

        def average_x0(latents: Tensor, timesteps: Tensor) -> Tensor:
            with self.ema.applied():
                return student_x0(latents, timesteps)

        def teacher_noise(latents: Tensor, timesteps: Tensor) -> Tensor:
            return guided_noise_pred(
                self.bundle.unet,
                latents,
                timesteps,
                prompt_embeds=batch.prompt_embeds,
                negative_embeds=self.negative_embeds,
                guidance_scale=self.guidance_scale,
            )

        noisy = noisy_at_trained(batch.x0, batch.noise, batch.timesteps, alphas_cumprod=self.alphas_cumprod)
        target = consistency_target(
            noisy,
            batch.timesteps,
            teacher_noise=teacher_noise,
            average_x0=average_x0,
            stride=NUM_TRAIN_TIMESTEPS // self.params.consistency_steps,
            alphas_cumprod=self.alphas_cumprod,
        )
        return pseudo_huber(student_x0(noisy, batch.timesteps), target, delta=self.params.consistency_delta)


@torch.no_grad()
def consistency_target(
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    teacher_noise: PredictNoise,
    average_x0: PredictX0,
    stride: int,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """The average's x0 where one DDIM step of the teacher leads; where that is the end, the teacher's x0.

    A consistency function leaves what has no noise as it is. Luo et al. build theirs so, with c_skip and c_out, but at
    timestep 24, the first of 40 steps, these differ from 0 and 1 by less than 1e-5. This student is called nowhere
    below its grid, and ddim takes its x0 as it is: the boundary is set where it counts, in the target.
    """
    later = timesteps - stride
    x = ddim_step(
        noisy_latents, teacher_noise(noisy_latents, timesteps), timesteps, later, alphas_cumprod=alphas_cumprod
    )
    is_clean = (later < 0).view(-1, 1, 1, 1)
    return x.where(is_clean, average_x0(x, later.clamp(min=0)))


def draw_consistency_batch(data: AddData, params: Add, *, step: int) -> ConsistencyBatch:
    """The batch of this step, a function of its arguments.

    The noise is fresh: x0 and the noise it was drawn from depend on each other, and their mixtures lie on no path.
    """
    pairs = pairs_at(data, seed=params.seed, step=step)
    items = torch.tensor(batch_indices(len(pairs), params.batch_size, seed=params.seed, step=step))
    generator = step_generator(params.seed, step)
    stride = NUM_TRAIN_TIMESTEPS // params.consistency_steps
    x0 = pairs.x0[items]
    return ConsistencyBatch(
        x0=x0,
        noise=torch.randn(x0.shape, generator=generator),
        timesteps=stride * torch.randint(1, params.consistency_steps + 1, (len(items),), generator=generator) - 1,
        prompt_embeds=data.prompt_embeds[pairs.rows[items]],
    )
