"""The compared models, each with the sampler that it is evaluated with."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from naruto_add.config.schema import Base, Sampling
from naruto_add.diffusion.bundle import ModelBundle, load_bundle, load_pipeline_folder, load_unet
from naruto_add.diffusion.half_decoder import decoder_dtype, halve_decoder
from naruto_add.diffusion.placement import move_to_cpu, on_device
from naruto_add.diffusion.sampling import Sampler, dpm_solver_sampler, student_sampler, teacher_sampler
from naruto_add.runtime.compute import channels_last
from naruto_add.runtime.files import content_hash
from naruto_add.runtime.units import MIB

FULL_TEACHER = "teacher_full"


@dataclass(frozen=True, kw_only=True)
class Models:
    """Where the compared models are stored, and how they are sampled."""

    base: Base
    sampling: Sampling
    teacher_dir: Path
    student_dir: Path
    distilled_dir: Path


@dataclass(frozen=True)
class Subject:
    """A model with its sampler. `weights` is a hash of what the model was loaded from."""

    bundle: ModelBundle
    sampler: Sampler
    weights: str
    size_mib: float | None = None
    """Size on disk of the weights of U-Net, text encoder and autoencoder; None for a model in the hub's cache."""

    @property
    def params_m(self) -> float:
        """Parameters of the U-Net, in millions."""
        return self.bundle.unet.num_parameters() / 1e6

    @property
    def pipeline_params_m(self) -> float:
        """Parameters of U-Net, text encoder and autoencoder, in millions."""
        return sum(module.num_parameters() for module in self.bundle.networks) / 1e6

    @property
    def weights_mib(self) -> float:
        """Memory of the loaded weights of U-Net, text encoder and autoencoder."""
        weights = [weight for module in self.bundle.networks for weight in module.parameters()]
        return sum(weight.numel() * weight.element_size() for weight in weights) / MIB

    def on_device(self) -> AbstractContextManager[None]:
        """A block within which the networks are on the GPU, if there is one."""
        return on_device(self.bundle.device, *self.bundle.networks)

    def key(self) -> list[Any]:
        """Everything that its pictures depend on, except prompts, seed and batch size."""
        scheduler = self.sampler.scheduler
        return [
            self.weights,
            str(self.bundle.unet.dtype),
            str(decoder_dtype(self.bundle.vae)),
            self.bundle.device.type,
            self.bundle.latent_shape,
            self.bundle.caption_chunks,
            type(scheduler).__name__,
            {name: value for name, value in scheduler.config.items() if not name.startswith("_")},
            self.sampler.num_inference_steps,
            self.sampler.guidance_scale,
        ]


def load_subjects(models: Models) -> dict[str, Subject]:
    """`base` and `teacher` with the teacher's own sampler, `student` and `distilled` with the student's.

    Networks that are not in use are kept in CPU memory; those of a subject are on the GPU only while it draws.
    """
    base, sampling = models.base, models.sampling
    base_bundle = load_bundle(base)
    move_to_cpu(*base_bundle.networks)
    teacher = load_pipeline_folder(
        models.teacher_dir, precision=base.frozen_precision, caption_chunks=base.caption_chunks
    )
    move_to_cpu(*teacher.networks)
    for network in (base_bundle.unet, base_bundle.vae, teacher.unet, teacher.vae):
        channels_last(network)  # on a CPU too (`python -m benchmarks.cpu_threads` compares the layouts)
    if teacher.device.type == "cuda" and base.frozen_precision != "fp32":
        for bundle in (base_bundle, teacher):
            halve_decoder(bundle.vae)
    base_mib = _stored_mib(Path(base.model)) if Path(base.model).exists() else None
    base_sampler, sampler = teacher_sampler(base_bundle, sampling), teacher_sampler(teacher, sampling)
    return {
        "base": Subject(base_bundle, base_sampler, _base_weights(base), base_mib),
        "teacher": Subject(teacher, sampler, content_hash(models.teacher_dir), _stored_mib(models.teacher_dir)),
        "student": load_student(models, teacher, models.student_dir),
        "distilled": load_student(models, teacher, models.distilled_dir),
    }


def load_student(models: Models, teacher: ModelBundle, folder: Path) -> Subject:
    """A student's U-Net with the student's sampler. Its text encoder and autoencoder are the teacher's.

    The U-Net is kept in CPU memory until the subject draws.
    """
    bundle = replace(
        teacher, unet=load_unet(folder, precision=models.base.frozen_precision, scheduler=teacher.scheduler)
    )
    move_to_cpu(bundle.unet)
    channels_last(bundle.unet)
    other_mib = _stored_mib(models.teacher_dir) - _stored_mib(models.teacher_dir / "unet")
    sampler = student_sampler(teacher, models.sampling, models.sampling.student_steps)
    return Subject(bundle, sampler, content_hash(models.teacher_dir, folder), other_mib + _stored_mib(folder))


def at_steps(subject: Subject, num_steps: int) -> Subject:
    """The subject with the same scheduler and another number of steps. For students use `student_at_steps`."""
    return replace(subject, sampler=replace(subject.sampler, num_inference_steps=num_steps))


def with_dpm_solver(subject: Subject, num_steps: int) -> Subject:
    """The subject sampled by DPM-Solver++, which draws as well as PNDM in about a fifth of the steps."""
    sampler = dpm_solver_sampler(subject.bundle, num_steps, subject.sampler.guidance_scale)
    return replace(subject, sampler=sampler)


def evaluated_subjects(models: Models, *, dpm_steps: int) -> dict[str, Subject]:
    """All models that `evaluate` compares.

    `base` and `teacher` take `dpm_steps` steps of DPM-Solver++, their best quality for their time.
    `teacher_full` is the teacher as users know it: its own scheduler at `sampling.teacher_steps`. The few-step
    baselines are the teacher at the student's number of steps, with either scheduler.
    """
    loaded = load_subjects(models)
    teacher, few_steps = loaded["teacher"], models.sampling.student_steps
    return {
        "base": with_dpm_solver(loaded["base"], dpm_steps),
        "teacher": with_dpm_solver(teacher, dpm_steps),
        "student": loaded["student"],
        "distilled": loaded["distilled"],
        FULL_TEACHER: teacher,
        "teacher_few_steps": at_steps(teacher, few_steps),
        "teacher_few_steps_dpm": with_dpm_solver(teacher, few_steps),
    }


def student_at_steps(student: Subject, sampling: Sampling, num_steps: int) -> Subject:
    """The student with a scheduler whose `num_steps` timesteps are evenly spaced (trailing)."""
    return replace(student, sampler=student_sampler(student.bundle, sampling, num_steps))


def _base_weights(base: Base) -> str:
    folder = Path(base.model)
    return content_hash(folder) if folder.exists() else content_hash(base.model, base.revision, base.variant)


def _stored_mib(folder: Path) -> float:
    files = [folder] if folder.is_file() else folder.rglob("*.safetensors")
    return sum(path.stat().st_size for path in files) / MIB
