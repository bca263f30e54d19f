"""The one sampler: every picture of the pipeline is drawn by `sample_latents`, with a diffusers scheduler."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.schema import Sampling, StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import noise_from_v_pred
from naruto_add.diffusion.v_prediction import V_SCHEDULE
from naruto_add.runtime.compute import step_generator

BATCH = 64
"""Pictures drawn together."""
NOISE_STREAM = 7
"""Separates initial noise from what training steps of the same seed and number draw."""
_SCHEDULE_KEYS = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler of epsilon, its number of steps, and the guidance scale; at 1.0 there is no guidance."""

    scheduler: Any
    num_inference_steps: int
    guidance_scale: float


def teacher_sampler(bundle: ModelBundle, sampling: Sampling) -> Sampler:
    """The pipeline's own scheduler (PNDM for SD 1.5) at `sampling.teacher_steps`, with guidance."""
    scheduler = type(bundle.scheduler).from_config(bundle.scheduler.config, prediction_type="epsilon")
    return Sampler(scheduler, sampling.teacher_steps, sampling.guidance_scale)


def dpm_solver_sampler(bundle: ModelBundle, num_steps: int, guidance_scale: float) -> Sampler:
    """DPM-Solver++ (Lu et al. 2022), which needs about a fifth of PNDM's steps for the same picture."""
    scheduler = DPMSolverMultistepScheduler(**_schedule(bundle.scheduler), timestep_spacing="trailing")
    return Sampler(scheduler, num_steps, guidance_scale)


def student_sampler(bundle: ModelBundle, sampling: Sampling, num_steps: int) -> Sampler:
    """The student's sampler, without guidance: it is distilled into the student's weights."""
    return Sampler(make_student_scheduler(bundle.scheduler, sampling.student_scheduler, num_steps), num_steps, 1.0)


def make_student_scheduler(teacher_scheduler: Any, kind: StudentScheduler, num_steps: int) -> Any:
    """A scheduler that samples at the trailing `num_steps` timesteps, at which the student is trained."""
    schedule = _schedule(teacher_scheduler)
    match kind:
        case "ddim":
            return DDIMScheduler(**schedule, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
        case "lcm":
            return LCMScheduler(**schedule, original_inference_steps=num_steps, set_alpha_to_one=True)


def initial_noise(bundle: ModelBundle, num: int, *, seed: int) -> Float[Tensor, "num c h w"]:
    """Standard normal noise on the bundle's device; that of picture i depends only on (seed, i)."""
    parts = [
        torch.randn(bundle.latent_shape, generator=step_generator(seed, index, NOISE_STREAM)) for index in range(num)
    ]
    return torch.stack(parts).to(bundle.device)


def sample_latents(
    unet: UNet2DConditionModel,
    *,
    noise: Float[Tensor, "batch c h w"],
    prompt_embeds: Float[Tensor, "batch tokens width"],
    negative_embeds: Float[Tensor, "1 tokens width"],
    sampler: Sampler,
    generators: list[torch.Generator] | None = None,
) -> Float[Tensor, "batch c h w"]:
    """The x0 latents, fp32, sampled from this noise.

    `generators`, one per item, are for schedulers that add noise between steps.
    """
    return sample_trajectory(
        unet,
        noise=noise,
        prompt_embeds=prompt_embeds,
        negative_embeds=negative_embeds,
        sampler=sampler,
        generators=generators,
        timesteps=[],
    )[:, -1]


@torch.no_grad()
def sample_trajectory(
    unet: UNet2DConditionModel,
    *,
    noise: Float[Tensor, "batch c h w"],
    prompt_embeds: Float[Tensor, "batch tokens width"],
    negative_embeds: Float[Tensor, "1 tokens width"],
    sampler: Sampler,
    timesteps: list[int],
    generators: list[torch.Generator] | None = None,
) -> Float[Tensor, "batch states c h w"]:
    """The states x_t of sampling at these timesteps, in the sampler's order, and then x0; fp32.

    Raises ValueError if the sampler does not visit one of the timesteps.
    """
    parts = []
    for first in range(0, len(noise), BATCH):
        batch = slice(first, first + BATCH)
        predict = partial(
            guided_noise_pred,
            unet,
            prompt_embeds=prompt_embeds[batch],
            negative_embeds=negative_embeds,
            guidance_scale=sampler.guidance_scale,
        )
        states = _run_scheduler(predict, noise[batch], sampler, timesteps, generators[batch] if generators else None)
        parts.append(torch.stack(states, dim=1))
    return torch.cat(parts)


def guided_noise_pred(
    unet: UNet2DConditionModel,
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    prompt_embeds: Float[Tensor, "batch tokens width"],
    negative_embeds: Float[Tensor, "1 tokens width"],
    guidance_scale: float | Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Epsilon, fp32, with classifier-free guidance (Ho & Salimans 2022).

    The U-Net gets one batch of twice the size: first the items with `negative_embeds`, then with `prompt_embeds`.
    """
    if isinstance(guidance_scale, float) and guidance_scale == 1.0:
        return noise_pred(unet, noisy_latents, timesteps, prompt_embeds)
    embeds = torch.cat([negative_embeds.expand_as(prompt_embeds), prompt_embeds])
    both = noise_pred(unet, noisy_latents.repeat(2, 1, 1, 1), timesteps.repeat(2), embeds)
    unconditional, conditional = both.chunk(2)
    scale = torch.as_tensor(guidance_scale, device=both.device).view(-1, 1, 1, 1)
    return unconditional + scale * (conditional - unconditional)


def noise_pred(
    unet: UNet2DConditionModel,
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    prompt_embeds: Float[Tensor, "batch tokens width"],
) -> Float[Tensor, "batch c h w"]:
    """Epsilon, fp32, from inputs in the U-Net's dtype; also of a U-Net that predicts v."""
    dtype = next(unet.parameters()).dtype  # `unet.dtype` walks through all modules
    predicted = unet(noisy_latents.to(dtype), timesteps, prompt_embeds.to(dtype), return_dict=False)[0].float()
    schedule = getattr(unet, V_SCHEDULE, None)
    if schedule is None:
        return predicted
    return noise_from_v_pred(noisy_latents, predicted, timesteps, alphas_cumprod=schedule)


def _run_scheduler(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    sampler: Sampler,
    recorded: list[int],
    generators: list[torch.Generator] | None,
) -> list[Tensor]:
    """The states at the timesteps `recorded`, then x0; `predict` maps x_t and timesteps to epsilon."""
    scheduler = copy.deepcopy(sampler.scheduler)  # multistep schedulers keep a history
    scheduler.set_timesteps(sampler.num_inference_steps, device=noise.device)
    missing = set(recorded) - set(scheduler.timesteps.tolist())
    if missing:
        raise ValueError(f"{sampler.num_inference_steps} steps of {type(scheduler).__name__} do not visit {missing}")
    options = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = noise.float() * scheduler.init_noise_sigma
    states = []
    for timestep in scheduler.timesteps:
        if int(timestep) in recorded:
            states.append(latents)
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(
            predict(scaled, timestep.expand(len(latents))), timestep, latents, return_dict=False, **options
        )[0]
    return [*states, latents]


def _schedule(scheduler: Any) -> dict[str, Any]:
    """Its noise schedule, for predictions of epsilon: `noise_pred` converts those of v."""
    return {key: scheduler.config[key] for key in _SCHEDULE_KEYS} | {"prediction_type": "epsilon"}
