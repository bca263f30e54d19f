"""The models that are compared, and the pictures that each draws from the same prompts, seeds and initial noise.

The only module of the evaluation that knows diffusion.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naruto_add.compute import step_generator
from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_prompts,
    load_bundle,
    load_pipeline_folder,
    load_unet,
)
from naruto_add.diffusion.sampling import Sampler, initial_noise, sample_latents, student_sampler, teacher_sampler
from naruto_add.evaluation.cache import Arrays, cached
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.speed import MIB, seconds_of
from naruto_add.files import content_hash
from naruto_add.params import Base, Sampling

RENOISE_STREAM = 1


@dataclass(frozen=True)
class Subject:
    """A model with the sampler that it is judged with; `weights` is a hash of what it was loaded from."""

    bundle: ModelBundle
    sampler: Sampler
    weights: str
    size_mib: float | None = None
    """Of its weights on disk, those of text encoder and autoencoder included; None for what lies in the hub's cache."""

    @property
    def params_m(self) -> float:
        """Millions of parameters of the U-Net."""
        return _num_parameters(self.bundle.unet) / 1e6

    @property
    def pipeline_params_m(self) -> float:
        """Millions of parameters of U-Net, text encoder and autoencoder."""
        modules = (self.bundle.unet, self.bundle.text_encoder, self.bundle.vae)
        return sum(_num_parameters(module) for module in modules) / 1e6

    def key(self) -> list[Any]:
        """What its pictures depend on, apart from prompts, seed and batch size."""
        scheduler = self.sampler.scheduler
        return [
            self.weights,
            str(self.bundle.unet.dtype),
            self.bundle.device.type,
            self.bundle.latent_shape,
            type(scheduler).__name__,
            {name: value for name, value in scheduler.config.items() if not name.startswith("_")},
            self.sampler.num_inference_steps,
            self.sampler.guidance_scale,
        ]


def load_subjects(
    base: Base,
    sampling: Sampling,
    *,
    num_student_steps: int,
    teacher_dir: Path,
    student_dir: Path,
    distilled_dir: Path,
) -> dict[str, Subject]:
    """Base and teacher with the teacher's sampler, student and distilled with the student's, by name."""
    base_bundle = load_bundle(base)
    teacher = load_pipeline_folder(teacher_dir, precision=base.precision)
    few_steps = student_sampler(teacher, sampling, num_student_steps)

    def student(folder: Path) -> Subject:
        bundle = replace(teacher, unet=load_unet(folder, precision=base.precision))
        size_mib = _stored_mib(teacher_dir) - _stored_mib(teacher_dir / "unet") + _stored_mib(folder)
        return Subject(bundle, few_steps, content_hash(teacher_dir, folder), size_mib)

    base_mib = _stored_mib(Path(base.model)) if Path(base.model).is_dir() else None
    full_steps = teacher_sampler(teacher, sampling)
    return {
        "base": Subject(base_bundle, teacher_sampler(base_bundle, sampling), _base_weights(base), base_mib),
        "teacher": Subject(teacher, full_steps, content_hash(teacher_dir), _stored_mib(teacher_dir)),
        "student": student(student_dir),
        "distilled": student(distilled_dir),
    }


def at_steps(subject: Subject, num_steps: int) -> Subject:
    """The same model and scheduler with another number of steps."""
    return replace(subject, sampler=replace(subject.sampler, num_inference_steps=num_steps))


def drawn(subject: Subject, prompts: list[str], *, seed: int, batch_size: int, cache_dir: Path) -> Images:
    """The images of `draw_set`, drawn at most once."""
    return cached(
        cache_dir,
        ["images", subject.key(), prompts, seed, batch_size],
        lambda: draw_set(subject, prompts, seed=seed, batch_size=batch_size),
    )["images"]


def draw_set(subject: Subject, prompts: list[str], *, seed: int, batch_size: int) -> Arrays:
    """`images`, one per prompt, and `seconds`, the time that it took; picture i starts from noise (seed, i)."""
    noise = initial_noise(subject.bundle, len(prompts), seed=seed)
    batches: list[Images] = []

    def draw() -> None:
        for first in range(0, len(prompts), batch_size):
            batch = slice(first, first + batch_size)
            generator = step_generator(seed, first, RENOISE_STREAM)
            batches.append(_draw_batch(subject, prompts[batch], noise[batch], generator))

    seconds = seconds_of(draw)
    return {"images": np.concatenate(batches), "seconds": np.array(seconds)}


def as_images(pixels: torch.Tensor) -> Images:
    """uint8, channels last, of pixels in [-1, 1]."""
    rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    images: Images = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images


def _draw_batch(subject: Subject, prompts: list[str], noise: torch.Tensor, generator: torch.Generator) -> Images:
    bundle = subject.bundle
    latents = sample_latents(
        bundle.unet,
        noise=noise,
        prompt_embeds=encode_prompts(bundle, prompts),
        negative_embeds=encode_prompts(bundle, [""]),
        sampler=subject.sampler,
        generator=generator,
    )
    return as_images(decode_latents(bundle, latents))


def _base_weights(base: Base) -> str:
    folder = Path(base.model)
    return content_hash(folder) if folder.is_dir() else content_hash(base.model, base.revision, base.variant)


def _stored_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / MIB


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
