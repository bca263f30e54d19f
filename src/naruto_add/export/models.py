"""The models of one export with what all formats share: prompts, noise, pictures to compare with, and jobs to time.

Networks that are not in use are kept in CPU memory, so that one pipeline at a time is on the GPU.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from naruto_add.comparison.draw import draw_pixels
from naruto_add.config.schema import Base, Export, Sampling
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.placement import on_device
from naruto_add.diffusion.sampling import Sampler, dpm_solver_sampler, initial_noise
from naruto_add.export.latency import Draw, Job
from naruto_add.export.reload import draw_by_diffusers
from naruto_add.imaging.pixels import to_uint8
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.units import MIB

EXAMPLE_TEACHER_STEPS = 25
"""DPM-Solver++ steps of the teacher's example pictures, in the model cards and on the demo page."""

Figures = dict[str, float | int | str]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The figures of a file or folder that was written and compared, and what draws with it, if that is timed."""

    figures: Figures
    job: Job | None = None
    runs_on_cpu: bool = False
    """Whether the job draws on the CPU even if torch has another device."""


@dataclass(frozen=True, kw_only=True)
class ExportModels:
    """Teacher and student in fp32, the student's scheduler, and the complete prompts of `export.prompts`."""

    params: Export
    base: Base
    sampling: Sampling
    teacher: ModelBundle
    student: ModelBundle
    scheduler: Any
    prompts: list[str]

    @property
    def student_sampler(self) -> Sampler:
        """The student's own steps, without guidance."""
        return Sampler(self.scheduler, self.sampling.student_steps, guidance_scale=1.0)

    @property
    def teacher_sampler(self) -> Sampler:
        """The sampler of the teacher's example pictures."""
        return dpm_solver_sampler(self.teacher, EXAMPLE_TEACHER_STEPS, self.sampling.guidance_scale)

    @cached_property
    def teacher_pictures(self) -> list[Image.Image]:
        """The teacher's, one for each prompt, from the noise of the student's."""
        return self._pictures(self.teacher, self.teacher_sampler)

    def student_pictures(self) -> list[Image.Image]:
        """One picture for each prompt."""
        return self._pictures(self.student, self.student_sampler)

    def batch(self, size: int) -> list[str]:
        """The first prompt, so many times."""
        return self.prompts[:1] * size

    def noise(self, size: int) -> Tensor:
        """Initial noise of so many pictures."""
        return initial_noise(self.student, size, seed=self.params.seed)

    def check_pictures(self, name: str, pipeline: Any, bundle: ModelBundle, allowed: float) -> float:
        """The largest difference of the pictures of the loaded pipeline and of the model that it was written from.

        Raises StageError if it is more than allowed.
        """
        noise, num_steps = self.noise(len(self.prompts)), self.sampling.student_steps
        options: dict[str, Any] = {
            "scheduler": self.scheduler,
            "num_steps": num_steps,
            "num_chunks": self.base.caption_chunks,
            "seed": self.params.seed,
        }
        theirs = draw_by_diffusers(pipeline, self.prompts, noise, **options)
        reference = bundle.pipeline()
        reference.set_progress_bar_config(disable=True)
        ours = draw_by_diffusers(reference, self.prompts, noise, **options)
        found = (ours - theirs).abs().max().item()
        if not found <= allowed:
            raise StageError(
                f"export.formats: {name}: diffusers draws other pictures with it than with the model, by up to "
                f"{found:.2g} of 1, more than {allowed:.2g}; leave {name} out, or install the locked version of "
                "diffusers (`make install`)"
            )
        return found

    def diffusers_job(self, pipeline: Any) -> Job:
        """A loaded pipeline that draws on the student's device."""

        def draw(batch: int) -> object:
            return draw_by_diffusers(
                pipeline,
                self.batch(batch),
                self.noise(batch),
                scheduler=self.scheduler,
                num_steps=self.sampling.student_steps,
                num_chunks=self.base.caption_chunks,
                seed=self.params.seed,
            ).cpu()

        networks = pipeline.text_encoder, pipeline.unet, pipeline.vae
        return Job(draw, partial(on_device, self.student.device, *networks))

    def draw_by_torch(self, bundle: ModelBundle) -> Draw:
        """A model that draws as the trainings do, without a pipeline."""

        def draw(batch: int) -> object:
            noise = initial_noise(bundle, batch, seed=self.params.seed)
            with torch.inference_mode():
                embeds = encode_prompts(bundle, self.batch(batch))
                return draw_pixels(
                    bundle,
                    self.student_sampler,
                    prompt_embeds=embeds,
                    noise=noise,
                    seed=self.params.seed,
                    indices=range(batch),
                ).cpu()

        return draw

    def _pictures(self, bundle: ModelBundle, sampler: Sampler) -> list[Image.Image]:
        count, seed = len(self.prompts), self.params.seed
        pixels = draw_pixels(
            bundle,
            sampler,
            prompt_embeds=encode_prompts(bundle, self.prompts),
            noise=self.noise(count),
            seed=seed,
            indices=range(count),
        )
        return [Image.fromarray(image) for image in to_uint8(pixels)]


def check_weights(name: str, found: float, allowed: float, *, remedy: str) -> None:
    """Raises StageError, with the remedy, if the weights of a file differ from the model's by more than allowed."""
    if not found <= allowed:
        raise StageError(
            f"export.formats: {name}: its weights differ from the model's by {found:.2g}, more than {allowed:.2g}; "
            f"{remedy}"
        )


def size_mib(path: Path) -> float:
    """The size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files) / MIB
