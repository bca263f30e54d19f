"""What both methods of `add` share: the student and its moving average, validation, and which weights are kept."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.config.schema import Add, Precision, StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler
from naruto_add.runtime.compute import frozen_dtype, make_accelerator, step_generator
from naruto_add.training.add.alarms import Alarms
from naruto_add.training.add.dataset import AddData
from naruto_add.training.add.denoisers import Denoisers
from naruto_add.training.add.selection import Selection
from naruto_add.training.add.validation_score import ValidationScore
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.learner import Learner
from naruto_add.training.processes import local_parts
from naruto_add.training.scores import check_can_sample, colour_drift, spread
from naruto_add.training.settings import DistillationSettings
from naruto_add.training.validation_grid import ValidationGrid
from naruto_add.training.validation_samples import sample_across_processes
from naruto_add.training.weights import Ema, in_sampling_precision

DIVERSITY_STREAM = 2
"""Separates the noise of the diversity samples from other draws of the same seed."""
DIVERSITY_PROMPTS = 8
DIVERSITY_SEEDS = 4
NUM_DRAWN = 6
"""Held-out pool samples, of different prompts, in the grid of validations."""


class DistillationTrainer(ABC):
    """Trains a student by one of `add.method`. Subclasses implement the training step."""

    ADVICE: str
    """What to change if the student's gradients are not finite."""
    ALARM_ADVICE: Mapping[str, str]
    """The alarms of the method, each with what to change."""

    def __init__(
        self,
        bundle: ModelBundle,
        student: UNet2DConditionModel,
        *,
        data: AddData,
        params: Add,
        settings: DistillationSettings,
        student_scheduler: StudentScheduler,
    ) -> None:
        self.bundle, self.student, self.data, self.params = bundle, student, data, params
        self.sampling_dtype = frozen_dtype(settings.frozen_precision)
        self.accelerator = make_accelerator(
            autocast_dtype(settings.autocast), keeps_casts=not params.gradient_checkpointing
        )
        move_to_cpu(bundle.text_encoder, bundle.vae)
        if params.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        self.denoisers = Denoisers(
            student,
            bundle,
            negative_embeds=data.prompt_embeds[:1],
            guidance_scale=settings.guidance_scale,
            accelerator=self.accelerator,
        )
        self.ema = Ema(student, params.optimizer.ema_decay, on_cpu=params.optimizer.ema_on_cpu)
        self.learner = Learner(
            student,
            self.accelerator,
            section="add",
            optimizer=params.optimizer,
            learning_rate=params.optimizer.learning_rate,
            num_steps=params.num_steps,
            accumulation_steps=params.accumulation_steps,
            ema=self.ema,
            advice=self.ADVICE,
        )
        self.parts = local_parts("add", batch_size=params.batch_size, accumulation_steps=params.accumulation_steps)
        num_steps = len(settings.student_timesteps)
        self.sampler, self._ddim_sampler = (
            Sampler(make_student_scheduler(bundle.scheduler, kind, num_steps), num_steps, 1.0)
            for kind in (student_scheduler, "ddim")
        )
        self.validation_score = ValidationScore(
            bundle,
            real_pixels=data.real_pixels,
            teacher_latents=data.held_out.x0,
            prompts=data.held_out.rows,
            backbone_name=params.score_backbone,
        )
        self.selection = Selection()
        self._drawn = first_of_each(data.held_out.rows)[:NUM_DRAWN]
        self.grid = ValidationGrid([data.prompts[row] for row in data.held_out.rows[self._drawn]])
        self.alarms = Alarms(params.num_steps, self.ALARM_ADVICE)

    @abstractmethod
    def train_step(self, step: int) -> Scalars:
        """One update of the student. Its randomness depends only on (`add.seed`, step)."""

    def state(self) -> dict[str, Stateful]:
        """What a checkpoint needs; everything else follows from parameters, data and the number of the step."""
        return {
            "student": self.learner,
            "selection": self.selection,
            "best": self.selection.best,
            "grid": self.grid,
            "alarms": self.alarms,
        }

    def validate(self, num_done: int) -> Scalars:
        """Sample the averaged student from the held-out pool samples' noise, score the samples, and draw some."""
        with self.ema.applied():
            samples = self.sample_held_out()
            diversity = self.sample_few_prompts()
        reference = self.data.held_out.x0
        score = self.validation_score(samples)
        guards = {
            "colour_drift": colour_drift(samples, reference).item(),
            "diversity": (spread(diversity) / reference.std()).item(),
            "prompt_match": score.prompt_match,
        }
        scalars = {
            "score": score.distance.value,
            "score_error": score.distance.error,
            "teacher_distance": score.teacher_distance,
            "sample_mse": (samples - reference).square().mean().item(),
            **guards,
        }
        self.selection.add(num_done, score.distance, scalars, self.ema.average())
        self.alarms.note_validation(num_done, **guards)
        if num_done == self.params.num_steps and self.selection.is_last_worse:
            self.alarms.note_end(self.selection.best_step, self.selection.finding())
        if num_done == 0:
            self.grid.add("teacher", self._decode(reference))
        self.grid.add(f"step {num_done}" if num_done else "start", self._decode(samples))
        return scalars

    def copy_kept_weights(self) -> None:
        """Overwrite the student by the averaged weights that are kept (see `Selection`)."""
        self.selection.copy_to(self.student, last=self.ema.average())

    def check_student(self) -> None:
        """Raise StageError if the student cannot sample before training: ADD does not repair a failed warm-up.

        The samples are drawn by DDIM, whatever the student's scheduler: with new noise between steps they could not be
        compared with the teacher's sample of the same initial noise.
        """
        held_out = self.data.held_out
        samples = self._sample(held_out.noise, held_out.rows, self._ddim_sampler)
        check_can_sample(samples, held_out.x0, constant=self.data.train.x0.mean(dim=0))

    def sample_held_out(self) -> Float[Tensor, "held_out c h w"]:
        """The student's samples of the held-out pool samples' noise and prompts, at its own number of steps."""
        return self._sample(self.data.held_out.noise, self.data.held_out.rows, self.sampler)

    def sample_few_prompts(self) -> Float[Tensor, "prompts seeds c h w"]:
        """The student's samples of a few prompts of held-out pool samples, all from the same few initial noises."""
        rows = self.data.held_out.rows.unique()[:DIVERSITY_PROMPTS]
        generator = step_generator(self.params.seed, 0, DIVERSITY_STREAM)
        noise = torch.randn(DIVERSITY_SEEDS, *self.bundle.latent_shape, generator=generator)
        samples = self._sample(noise.repeat(len(rows), 1, 1, 1), rows.repeat_interleave(DIVERSITY_SEEDS), self.sampler)
        return samples.unflatten(0, (len(rows), DIVERSITY_SEEDS))

    @property
    def num_skipped(self) -> int:
        """The number of updates skipped for gradients that are not finite."""
        return self.learner.guard.num_skipped

    def metrics(self) -> dict[str, float | int | str]:
        """The method, the scores at the start, at the end and of the teacher, alarms, and skipped updates."""
        return {
            "method": self.params.method,
            "teacher_score": self.validation_score.teacher_score,
            **self.selection.metrics(),
            "skipped_steps": self.num_skipped,
            **self.alarms.metrics(),
        }

    def _decode(self, latents: Float[Tensor, "held_out c h w"]) -> Float[Tensor, "drawn 3 height width"]:
        return decode_latents(self.bundle, latents[self._drawn].to(self.bundle.device)).cpu()

    def _sample(
        self, noise: Float[Tensor, "batch c h w"], rows: Int[Tensor, " batch"], sampler: Sampler
    ) -> Float[Tensor, "batch c h w"]:
        return sample_across_processes(
            in_sampling_precision(self.student, self.sampling_dtype),
            bundle=self.bundle,
            noise=noise,
            prompt_embeds=self.data.prompt_embeds[rows],
            sampler=sampler,
            seed=self.params.seed,
        )


def autocast_dtype(autocast: Precision) -> Precision:
    """bf16 in place of fp16: fp16 needs a gradient scaler, and two losses must not share one."""
    return "fp32" if autocast == "fp32" else "bf16"


def first_of_each(rows: Int[Tensor, " items"]) -> Int[Tensor, " distinct"]:
    """The index of the first item of each distinct value, in the order of the items."""
    first = {row: index for index, row in reversed(list(enumerate(rows.tolist())))}
    return torch.tensor(sorted(first.values()))
