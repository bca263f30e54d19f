"""The one sampler: every picture of the pipeline is drawn by `sample_latents`, with a diffusers scheduler."""

import copy
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import step_generator
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.params import Sampling

BATCH = 64
NOISE_STREAM = 7
"""Keeps starting noise apart from what training steps of the same seed and number draw."""
_SCHEDULE_KEYS = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type")


@dataclass(frozen=True)
class Sampler:
    """A scheduler, how many of its steps to take, and guidance; a `guidance_scale` of 1 calls the U-Net once a step."""

    scheduler: Any
    num_inference_steps: int
    guidance_scale: float


def teacher_sampler(bundle: ModelBundle, sampling: Sampling) -> Sampler:
    """The pipeline's own scheduler (PNDM for SD 1.5) at `sampling.teacher_steps`, with guidance."""
    return Sampler(bundle.scheduler, sampling.teacher_steps, sampling.guidance_scale)


def fast_sampler(bundle: ModelBundle, num_steps: int, guidance_scale: float) -> Sampler:
    """DPM-Solver++ (Lu et al. 2022): the teacher's picture in a fifth of the steps."""
    scheduler = DPMSolverMultistepScheduler(**_schedule(bundle.scheduler), timestep_spacing="trailing")
    return Sampler(scheduler, num_steps, guidance_scale)


def student_sampler(bundle: ModelBundle, sampling: Sampling, num_steps: int) -> Sampler:
    """The few-step sampler of the student, whose guidance is built in."""
    return Sampler(make_student_scheduler(bundle.scheduler, sampling.student_scheduler, num_steps), num_steps, 1.0)


def make_student_scheduler(teacher_scheduler: Any, kind: Literal["ddim", "lcm"], num_steps: int) -> Any:
    """A scheduler whose `num_steps` timesteps are the trailing ones that the student was trained at."""
    schedule = _schedule(teacher_scheduler)
    match kind:
        case "ddim":
            return DDIMScheduler(**schedule, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
        case "lcm":
            return LCMScheduler(**schedule, original_inference_steps=num_steps, set_alpha_to_one=True)


def initial_noise(bundle: ModelBundle, num: int, *, seed: int) -> Float[Tensor, "num c h w"]:
    """Standard normal noise on the bundle's device; picture i's depends on (seed, i) alone."""
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
    """x0 latents, fp32, drawn from this noise in batches; `generators`, one each, feed schedulers that re-noise."""
    return sample_states(
        unet,
        noise=noise,
        prompt_embeds=prompt_embeds,
        negative_embeds=negative_embeds,
        sampler=sampler,
        generators=generators,
        timesteps=[],
    )[:, -1]


@torch.no_grad()
def sample_states(
    unet: UNet2DConditionModel,
    *,
    noise: Float[Tensor, "batch c h w"],
    prompt_embeds: Float[Tensor, "batch tokens width"],
    negative_embeds: Float[Tensor, "1 tokens width"],
    sampler: Sampler,
    timesteps: list[int],
    generators: list[torch.Generator] | None = None,
) -> Float[Tensor, "batch states c h w"]:
    """What sampling passes through: x_t at each of these timesteps, which the sampler must visit, and x0 as the last.

    Raises ValueError for timesteps that it does not visit.
    """
    parts = []
    for first in range(0, len(noise), BATCH):
        batch = slice(first, first + BATCH)
        own = generators[batch] if generators else None
        states = _sample_batch(unet, noise[batch], prompt_embeds[batch], negative_embeds, sampler, own, timesteps)
        parts.append(torch.stack(states, dim=1))
    return torch.cat(parts)


def _sample_batch(
    unet: UNet2DConditionModel,
    noise: Tensor,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    sampler: Sampler,
    generators: list[torch.Generator] | None,
    watched: list[int],
) -> list[Tensor]:
    scheduler = copy.deepcopy(sampler.scheduler)  # multistep schedulers remember
    scheduler.set_timesteps(sampler.num_inference_steps, device=noise.device)
    missing = set(watched) - set(scheduler.timesteps.tolist())
    if missing:
        raise ValueError(f"{sampler.num_inference_steps} steps of {type(scheduler).__name__} do not visit {missing}")
    options = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = noise.float() * scheduler.init_noise_sigma
    states = []
    for timestep in scheduler.timesteps:
        if int(timestep) in watched:
            states.append(latents)
        noise_pred = guided_noise_pred(
            unet,
            scheduler.scale_model_input(latents, timestep),
            timestep.expand(len(latents)),
            prompt_embeds=prompt_embeds,
            negative_embeds=negative_embeds,
            guidance_scale=sampler.guidance_scale,
        )
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **options)[0]
    return [*states, latents]


def guided_noise_pred(
    unet: UNet2DConditionModel,
    noisy_latents: Float[Tensor, "batch c h w"],
    timesteps: Int[Tensor, " batch"],
    *,
    prompt_embeds: Float[Tensor, "batch tokens width"],
    negative_embeds: Float[Tensor, "1 tokens width"],
    guidance_scale: float | Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Epsilon, fp32, with classifier-free guidance (Ho & Salimans 2022); both halves in one batch."""
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
    """Epsilon, fp32, of one call in the U-Net's own dtype, or autocast's; its last layers compute in fp32 all the same.

    At t = 999 an error in epsilon is amplified 14.6 times into x0.
    """
    dtype = unet.dtype
    with _head_in_fp32(unet):
        return unet(noisy_latents.to(dtype), timesteps, prompt_embeds.to(dtype), return_dict=False)[0].float()


@contextmanager
def _head_in_fp32(unet: UNet2DConditionModel) -> Generator[None]:
    layers = (unet.conv_norm_out, unet.conv_out)
    for layer in layers:
        layer.forward = _in_fp32(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _in_fp32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float())

    return call


def _schedule(scheduler: Any) -> dict[str, Any]:
    return {key: scheduler.config[key] for key in _SCHEDULE_KEYS}
