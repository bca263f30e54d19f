"""The models that are compared, each with the sampler that it is judged with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from naruto_add.diffusion.bundle import ModelBundle, load_bundle, load_pipeline_folder, load_unet
from naruto_add.diffusion.sampling import Sampler, fast_sampler, student_sampler, teacher_sampler
from naruto_add.files import content_hash
from naruto_add.params import Base, Sampling

MIB = 2**20


@dataclass(frozen=True)
class Models:
    """Where the compared models lie, and how they are sampled."""

    base: Base
    sampling: Sampling
    num_student_steps: int
    teacher_dir: Path
    student_dir: Path
    distilled_dir: Path


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

    @property
    def weights_mib(self) -> float:
        """Memory of the weights of U-Net, text encoder and autoencoder, as they are loaded."""
        modules = (self.bundle.unet, self.bundle.text_encoder, self.bundle.vae)
        return sum(item.numel() * item.element_size() for module in modules for item in module.parameters()) / MIB

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


def load_subjects(models: Models) -> dict[str, Subject]:
    """Base and teacher with the teacher's sampler, student and distilled with the student's, by name."""
    base, sampling = models.base, models.sampling
    base_bundle = load_bundle(base)
    teacher = load_pipeline_folder(models.teacher_dir, precision=base.precision)
    base_mib = _stored_mib(Path(base.model)) if Path(base.model).is_dir() else None
    full_steps = teacher_sampler(teacher, sampling)
    return {
        "base": Subject(base_bundle, teacher_sampler(base_bundle, sampling), _base_weights(base), base_mib),
        "teacher": Subject(teacher, full_steps, content_hash(models.teacher_dir), _stored_mib(models.teacher_dir)),
        "student": load_student(models, teacher, models.student_dir),
        "distilled": load_student(models, teacher, models.distilled_dir),
    }


def load_student(models: Models, teacher: ModelBundle, folder: Path) -> Subject:
    """A student's U-Net with the student's sampler; its other parts are the teacher's."""
    bundle = replace(teacher, unet=load_unet(folder, precision=models.base.precision))
    others_mib = _stored_mib(models.teacher_dir) - _stored_mib(models.teacher_dir / "unet")
    sampler = student_sampler(teacher, models.sampling, models.num_student_steps)
    return Subject(bundle, sampler, content_hash(models.teacher_dir, folder), others_mib + _stored_mib(folder))


def at_steps(subject: Subject, num_steps: int) -> Subject:
    """The same model and scheduler with another number of steps: for teachers."""
    return replace(subject, sampler=replace(subject.sampler, num_inference_steps=num_steps))


def hurried(teacher: Subject, num_steps: int) -> dict[str, Subject]:
    """The teacher in as few steps as the student: by its own scheduler, and by DPM-Solver++, made for few of them."""
    sampler = fast_sampler(teacher.bundle, num_steps, teacher.sampler.guidance_scale)
    return {
        "teacher_few_steps": at_steps(teacher, num_steps),
        "teacher_few_steps_dpm": replace(teacher, sampler=sampler),
    }


def student_at_steps(student: Subject, sampling: Sampling, num_steps: int) -> Subject:
    """With evenly spaced timesteps: other than those that it was trained at, unless the number is the same."""
    return replace(student, sampler=student_sampler(student.bundle, sampling, num_steps))


def _base_weights(base: Base) -> str:
    folder = Path(base.model)
    return content_hash(folder) if folder.is_dir() else content_hash(base.model, base.revision, base.variant)


def _stored_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / MIB


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
