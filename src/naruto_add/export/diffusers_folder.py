"""The distilled student as a folder that plain diffusers loads, and that draws correctly with its default settings.

Two defaults of diffusers do not suit a few-step student. The folder overrides them:
- timesteps: the saved scheduler visits the trained timesteps, which the defaults of PNDM and LCM do not;
- guidance: it is off, although `guidance_scale` is 7.5 by default. diffusers turns guidance off only for a U-Net with
  `time_cond_proj_dim`, which takes the scale as an input. The exported U-Net has this input with zero weights, so that
  its predictions equal the student's bit for bit.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, forget_paths
from naruto_add.diffusion.noise import add_noise, alphas_cumprod
from naruto_add.diffusion.sampling import Sampler, initial_noise, noise_pred
from naruto_add.export.model_card import CardFacts, model_card
from naruto_add.export.settings import SamplingSettings, write_settings
from naruto_add.generation.draw import draw_pixels, renoise_generators
from naruto_add.runtime.compute import DTYPES, default_device
from naruto_add.runtime.errors import StageError

TIME_COND_PROJ_DIM = 4
"""The smallest even width for which diffusers' embedding of the guidance scale is defined."""
NOISE_PRED_TOLERANCE = {"fp32": 1e-4, "fp16": 3e-2}
"""Largest allowed absolute difference of epsilon (unit variance)."""
IMAGE_TOLERANCE = {"fp32": 2e-3, "fp16": 1e-1}
"""Largest allowed absolute difference of a picture's values in [0, 1]."""


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences between the student and its export."""

    noise_pred: float
    images: float


def write_diffusers_folder(
    student: ModelBundle,
    folder: Path,
    *,
    scheduler: Any,
    facts: CardFacts,
    settings: SamplingSettings,
    prompts: Sequence[str],
    seed: int,
) -> Parity:
    """Write the pipeline folder with its model card, reload it with plain diffusers and compare it to the student.

    Raises StageError if timesteps, predictions or pictures differ by more than the tolerance.
    """
    save_pipeline(student, scheduler, precision=facts.precision, folder=folder)
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    write_settings(folder, settings)
    parity = check_export(student, scheduler, folder, timesteps=facts.timesteps, prompts=prompts, seed=seed)
    _check_parity(parity, facts.precision)
    return parity


def save_pipeline(student: ModelBundle, scheduler: Any, *, precision: str, folder: Path) -> None:
    """Save tokenizer, text encoder, autoencoder, U-Net and scheduler as contiguous safetensors in `precision`."""
    # trailing timesteps do not use steps_offset, but pipelines warn about every value other than 1
    student_scheduler = type(scheduler).from_config(scheduler.config, steps_offset=1)
    unguided = ModelBundle(
        student.tokenizer, student.text_encoder, student.vae, _without_guidance(student.unet), student_scheduler
    )
    pipeline = unguided.pipeline()
    for name in ("text_encoder", "vae", "unet"):
        _save_weights(getattr(pipeline, name), folder / name, DTYPES[precision])
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)
    forget_paths(folder)


def check_export(
    student: ModelBundle,
    scheduler: Any,
    folder: Path,
    *,
    timesteps: Sequence[int],
    prompts: Sequence[str],
    seed: int,
) -> Parity:
    """Reload `folder` with plain diffusers and compare its predictions, and its pictures with default settings.

    Raises StageError if its scheduler visits other timesteps.
    """
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(default_device())
    _check_timesteps(pipeline, timesteps)
    noise = initial_noise(student, len(prompts), seed=seed)
    return Parity(
        noise_pred=_noise_pred_difference(student, pipeline, noise, timesteps, list(prompts)),
        images=_image_difference(student, pipeline, noise, scheduler, list(prompts), seed),
    )


def _without_guidance(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net with an input for the guidance scale that has zero weights."""
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    with torch.device("meta"):
        unguided = UNet2DConditionModel(**config | {"time_cond_proj_dim": TIME_COND_PROJ_DIM})
    shape = unguided.time_embedding.cond_proj.weight.shape
    ignored = {"time_embedding.cond_proj.weight": torch.zeros(shape, dtype=unet.dtype, device=unet.device)}
    unguided.load_state_dict(unet.state_dict() | ignored, assign=True)
    return unguided.eval()


def _save_weights(module: Any, folder: Path, dtype: torch.dtype) -> None:
    saved = copy.deepcopy(module)
    for tensor in (*saved.parameters(), *saved.buffers()):
        tensor.data = tensor.data.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
    saved.save_pretrained(folder, safe_serialization=True)


def _check_timesteps(pipeline: Any, timesteps: Sequence[int]) -> None:
    pipeline.scheduler.set_timesteps(len(timesteps))
    exported = [int(timestep) for timestep in pipeline.scheduler.timesteps]
    if exported != list(timesteps):
        raise StageError(
            f"export: the saved scheduler visits {exported}, but the student was trained at {list(timesteps)} "
            "(sampling.student_steps); install the locked version of diffusers (`make install`)"
        )


@torch.no_grad()
def _noise_pred_difference(
    student: ModelBundle, pipeline: Any, noise: Tensor, timesteps: Sequence[int], prompts: list[str]
) -> float:
    """The largest over all trained timesteps, for inputs at the noise level of each."""
    ours, theirs = encode_prompts(student, prompts), _encode_by(pipeline, prompts)
    condition = torch.zeros(len(prompts), TIME_COND_PROJ_DIM, device=noise.device)
    differences = []
    for timestep in timesteps:
        steps = torch.full((len(prompts),), timestep, device=noise.device)
        noisy = add_noise(noise.roll(1, 0), noise, steps, alphas_cumprod=alphas_cumprod(student.scheduler))
        exported = pipeline.unet(noisy, steps, theirs, timestep_cond=condition + 1, return_dict=False)[0]
        differences.append((noise_pred(student.unet, noisy, steps, ours) - exported.float()).abs().max().item())
    return max(differences)


def _encode_by(pipeline: Any, prompts: list[str]) -> Tensor:
    embeds: Tensor = pipeline.encode_prompt(prompts, pipeline.unet.device, 1, False)[0]
    return embeds


def _image_difference(
    student: ModelBundle, pipeline: Any, noise: Tensor, scheduler: Any, prompts: list[str], seed: int
) -> float:
    num_steps, indices = len(pipeline.scheduler.timesteps), range(len(prompts))
    sampler = Sampler(scheduler, num_steps, guidance_scale=1.0)
    embeds = encode_prompts(student, prompts)
    pixels = draw_pixels(student, sampler, prompt_embeds=embeds, noise=noise, seed=seed, indices=indices)
    ours = (pixels + 1) / 2
    options = {"latents": noise, "generator": renoise_generators(seed, indices), "output_type": "pt"}
    theirs = pipeline(prompts, num_inference_steps=num_steps, **options).images
    return (ours - theirs.float()).abs().max().item()


def _check_parity(parity: Parity, precision: str) -> None:
    for name, found, allowed in (
        ("predictions", parity.noise_pred, NOISE_PRED_TOLERANCE[precision]),
        ("pictures", parity.images, IMAGE_TOLERANCE[precision]),
    ):
        if not found <= allowed:
            raise StageError(
                f"export.precision: with {precision}, the exported student's {name} differ from the student's by "
                f"{found:.2g}, more than {allowed:.2g}; use fp32, or install the locked version of diffusers "
                "(`make install`)"
            )
