"""The distilled student as a folder that plain diffusers loads, and that draws correctly with its default settings.

Two defaults of diffusers do not suit a few-step student. The folder overrides them:
- timesteps: the saved scheduler visits the trained timesteps, which the defaults of PNDM and LCM do not;
- guidance: it is off, although `guidance_scale` is 7.5 by default. diffusers turns guidance off only for a U-Net with
  `time_cond_proj_dim`, which takes the scale as an input. The exported U-Net has this input with zero weights, so that
  its predictions equal the student's bit for bit.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from naruto_add.comparison.draw import draw_pixels, step_noise_generators
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, forget_paths, prompt_options
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, noise_from_v_pred
from naruto_add.diffusion.placement import on_device
from naruto_add.diffusion.sampling import Sampler, initial_noise, noise_pred
from naruto_add.export.card_facts import CardFacts
from naruto_add.export.model_card import model_card
from naruto_add.export.reload import pipeline_on_device
from naruto_add.generate.settings import SamplingSettings, write_settings
from naruto_add.runtime.compute import DTYPES
from naruto_add.runtime.errors import StageError

TIME_COND_PROJ_DIM = 4
"""The smallest even width for which diffusers' embedding of the guidance scale is defined."""
NOISE_PRED_TOLERANCE = {"fp32": 1e-4, "fp16": 3e-2}
"""Largest allowed difference of epsilon: absolute with fp32, relative (root mean square) with fp16."""
IMAGE_TOLERANCE = {"fp32": 2e-3, "fp16": 1e-1}
"""Largest allowed difference of a picture's values in [0, 1]: absolute with fp32, relative with fp16."""


@dataclass(frozen=True)
class Difference:
    """Difference of student and export: the largest, and the root mean square relative to the student's values."""

    largest: float
    relative: float


@dataclass(frozen=True)
class Parity:
    """Differences between the student and its export in predictions (epsilon) and pictures (values in [0, 1])."""

    noise_pred: Difference
    images: Difference


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

    It is loaded without arguments, and in fp16 if its weights are in fp16. Returns the differences of the first.
    Raises StageError if timesteps, predictions or pictures differ by more than the tolerance: of fp32 weights the
    largest absolute difference, of fp16 weights the relative one, because rounding grows with the values.
    """
    save_pipeline(student, scheduler, precision=facts.precision, folder=folder)
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    write_settings(folder, settings)
    shipped = [torch.float16] if facts.precision == "fp16" else []
    parities = [
        check_export(student, scheduler, folder, timesteps=facts.timesteps, prompts=prompts, seed=seed, dtype=dtype)
        for dtype in (None, *shipped)
    ]
    for parity in parities:
        _check_parity(parity, facts.precision)
    return parities[0]


def save_pipeline(student: ModelBundle, scheduler: Any, *, precision: str, folder: Path) -> None:
    """Save tokenizer, text encoder, autoencoder, U-Net and scheduler as contiguous safetensors in `precision`."""
    # trailing timesteps do not use steps_offset, but pipelines warn about every value other than 1
    predicted = student.scheduler.config.prediction_type  # the saved U-Net predicts what the teacher's does
    student_scheduler = type(scheduler).from_config(scheduler.config, steps_offset=1, prediction_type=predicted)
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
    _load_text_encoder_in_fp32(folder / "text_encoder/config.json")


def check_export(
    student: ModelBundle,
    scheduler: Any,
    folder: Path,
    *,
    timesteps: Sequence[int],
    prompts: Sequence[str],
    seed: int,
    dtype: torch.dtype | None = None,
) -> Parity:
    """Reload `folder` with plain diffusers and compare its predictions, and its pictures with default settings.

    With a `dtype` it is loaded in it, else without arguments. Raises StageError if its scheduler visits other
    timesteps.
    """
    options = {} if dtype is None else {"dtype": dtype}
    pipeline = DiffusionPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
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


def _load_text_encoder_in_fp32(config_path: Path) -> None:
    """Let the text encoder be loaded in fp32 without a dtype, as diffusers loads the other networks.

    transformers loads it in the dtype of its file otherwise, and a pipeline of two dtypes cannot draw.
    """
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config_path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


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
) -> Difference:
    """Over all trained timesteps, for inputs at the noise level of each."""
    inputs = []
    for timestep in timesteps:
        steps = torch.full((len(prompts),), timestep, device=noise.device)
        noisy = add_noise(noise.roll(1, 0), noise, steps, alphas_cumprod=alphas_cumprod(student.scheduler))
        inputs.append((noisy, steps))
    embeds = encode_prompts(student, prompts)
    with on_device(noise.device, student.unet):
        ours = [noise_pred(student.unet, *item, embeds) for item in inputs]
    with pipeline_on_device(pipeline, noise.device, num_pictures=len(prompts)):
        theirs = _predictions_of(pipeline, inputs, prompts, num_chunks=student.caption_chunks)
    return _difference(torch.stack(ours), torch.stack(theirs))


def _predictions_of(
    pipeline: Any, inputs: list[tuple[Tensor, Tensor]], prompts: list[str], *, num_chunks: int
) -> list[Tensor]:
    """Epsilon for each pair of noisy latents and timesteps."""
    unet, dtype, device = pipeline.unet, pipeline.unet.dtype, inputs[0][0].device
    options = prompt_options(pipeline, prompts, num_chunks, is_guided=False)
    embeds = pipeline.encode_prompt(
        options.get("prompt"), device, 1, False, prompt_embeds=options.get("prompt_embeds")
    )[0]
    condition = torch.ones(len(prompts), TIME_COND_PROJ_DIM, device=device, dtype=dtype)
    predictions = []
    for noisy, steps in inputs:
        predicted = unet(noisy.to(dtype), steps, embeds, timestep_cond=condition, return_dict=False)[0].float()
        if pipeline.scheduler.config.prediction_type == "v_prediction":
            predicted = noise_from_v_pred(noisy, predicted, steps, alphas_cumprod=alphas_cumprod(pipeline.scheduler))
        predictions.append(predicted)
    return predictions


def _image_difference(
    student: ModelBundle, pipeline: Any, noise: Tensor, scheduler: Any, prompts: list[str], seed: int
) -> Difference:
    num_steps, indices = len(pipeline.scheduler.timesteps), range(len(prompts))
    sampler = Sampler(scheduler, num_steps, guidance_scale=1.0)
    embeds = encode_prompts(student, prompts)
    pixels = draw_pixels(student, sampler, prompt_embeds=embeds, noise=noise, seed=seed, indices=indices)
    ours = (pixels + 1) / 2
    options = {
        "latents": noise.to(pipeline.unet.dtype),
        "generator": step_noise_generators(seed, indices),
        "output_type": "pt",
    }
    with pipeline_on_device(pipeline, noise.device, num_pictures=len(prompts)):
        prompt = prompt_options(pipeline, prompts, student.caption_chunks, is_guided=False)
        theirs = pipeline(**prompt, num_inference_steps=num_steps, **options).images
    return _difference(ours, theirs.float())


def _difference(ours: Tensor, theirs: Tensor) -> Difference:
    difference = ours - theirs
    relative = difference.square().mean().sqrt() / ours.square().mean().sqrt()
    return Difference(largest=difference.abs().max().item(), relative=relative.item())


def _check_parity(parity: Parity, precision: str) -> None:
    for name, difference, allowed in (
        ("predictions", parity.noise_pred, NOISE_PRED_TOLERANCE[precision]),
        ("pictures", parity.images, IMAGE_TOLERANCE[precision]),
    ):
        found = difference.relative if precision == "fp16" else difference.largest
        if not found <= allowed:
            raise StageError(
                f"export.precision: with {precision}, the exported student's {name} differ from the student's by "
                f"{found:.2g}, more than {allowed:.2g}; use fp32, or install the locked version of diffusers "
                "(`make install`)"
            )
