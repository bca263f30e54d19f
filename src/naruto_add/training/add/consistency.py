"""Latent consistency distillation (LCM, Luo et al. 2023), the method that adversarial distillation is compared with.

The student's x0 should be equal everywhere on a trajectory of the guided teacher. So its x0 at one of CONSISTENCY_STEPS
timesteps is trained towards its moving average's x0 one DDIM step of the teacher later.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.constants import CONSISTENCY_STEPS, NUM_TRAIN_TIMESTEPS
from naruto_add.config.schema import Add
from naruto_add.data.batches import batch_indices
from naruto_add.diffusion.noise import add_noise_zero_terminal_snr, ddim_step
from naruto_add.losses.distillation import pseudo_huber
from naruto_add.runtime.compute import step_generator
from naruto_add.training.add.alarms import CONSISTENCY_ADVICE
from naruto_add.training.add.batch import pairs_at
from naruto_add.training.add.dataset import AddData
from naruto_add.training.add.trainer import DistillationTrainer
from naruto_add.training.curves import Scalars
from naruto_add.training.processes import Items, means

STRIDE = NUM_TRAIN_TIMESTEPS // CONSISTENCY_STEPS
HUBER_DELTA = 1e-3
"""The error at which the pseudo-Huber loss changes from squared to absolute."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""A model's epsilon or x0 of x_t and timesteps."""


@dataclass(frozen=True)
class ConsistencyBatch(Items):
    """The inputs of one training step: the teacher's x0 and, for each, noise and a timestep."""

    x0: Float[Tensor, "batch c h w"]
    noise: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompt_embeds: Float[Tensor, "batch tokens width"]


class ConsistencyTrainer(DistillationTrainer):
    """`add.method: consistency`. The student is trained towards its own moving average; the teacher is frozen."""

    ADVICE = "lower add.optimizer.learning_rate"
    ALARM_ADVICE = CONSISTENCY_ADVICE

    def train_step(self, step: int) -> Scalars:
        """One update of the student."""
        batch = draw_consistency_batch(self.data, self.params, step=step)
        losses = []
        for part in self.parts:
            loss = self.loss(batch.part(part, self.bundle.device))
            self.learner.backward(loss)
            losses.append({"consistency_loss": loss})
        norm = self.learner.step()
        return {**means(losses), "skipped_steps": float(self.num_skipped), "student_grad_norm": norm}

    def loss(self, batch: ConsistencyBatch) -> Float[Tensor, ""]:
        """The consistency loss, with a gradient only to the student."""
        alphas_cumprod, prompt_embeds = self.denoisers.alphas_cumprod, batch.prompt_embeds

        def average_x0(latents: Tensor, timesteps: Tensor) -> Tensor:
            with self.ema.applied():
                return self.denoisers.student_x0(latents, timesteps, prompt_embeds)

        def teacher_noise(latents: Tensor, timesteps: Tensor) -> Tensor:
            return self.denoisers.teacher_noise(latents, timesteps, prompt_embeds)

        noisy = add_noise_zero_terminal_snr(batch.x0, batch.noise, batch.timesteps, alphas_cumprod=alphas_cumprod)
        target = consistency_target(
            noisy,
            batch.timesteps,
            teacher_noise=teacher_noise,
            average_x0=average_x0,
            stride=STRIDE,
            alphas_cumprod=alphas_cumprod,
        )
        x0_student = self.denoisers.student_x0(noisy, batch.timesteps, prompt_embeds)
        return pseudo_huber(x0_student, target, delta=HUBER_DELTA)


@torch.no_grad()
def consistency_target(
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    teacher_noise: Predict,
    average_x0: Predict,
    stride: int,
    alphas_cumprod: Float[Tensor, " timesteps"],
) -> Float[Tensor, "batch c h w"]:
    """The average's x0 of the state that a DDIM step of the teacher leads to; that state itself if it has no noise.

    The second case is the boundary condition of a consistency function: a clean x is mapped to itself. Luo et al. build
    it into the model by c_skip and c_out, which at timestep 24, the lowest here, differ from 0 and 1 by less than 1e-5.
    """
    later = timesteps - stride
    x = ddim_step(
        noisy_latents, teacher_noise(noisy_latents, timesteps), timesteps, later, alphas_cumprod=alphas_cumprod
    )
    is_clean = (later < 0).view(-1, 1, 1, 1)
    return x.where(is_clean, average_x0(x, later.clamp(min=0)))


def draw_consistency_batch(data: AddData, params: Add, *, step: int) -> ConsistencyBatch:
    """The batch of this step, on the CPU; it depends only on the arguments.

    The noise is new: x0 and the noise that it was sampled from are not independent.
    """
    pairs, number = pairs_at(data, seed=params.seed, step=step)
    items = torch.tensor(batch_indices(len(pairs), params.batch_size, seed=params.seed, step=number))
    generator = step_generator(params.seed, step)
    x0 = pairs.x0[items]
    return ConsistencyBatch(
        x0=x0,
        noise=torch.randn(x0.shape, generator=generator),
        timesteps=STRIDE * torch.randint(1, CONSISTENCY_STEPS + 1, (len(items),), generator=generator) - 1,
        prompt_embeds=data.prompt_embeds[pairs.rows[items]],
    )
