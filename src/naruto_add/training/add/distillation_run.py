"""What all methods of `add` share: the student and its average, scores, which weights are kept, when to end."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.compute import Precision, make_accelerator, step_generator
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add.alarms import Alarms
from naruto_add.training.add.inputs import AddData
from naruto_add.training.add.picture_score import PictureScore
from naruto_add.training.add.state import Patience, Scores
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.held_out import sample_shared
from naruto_add.training.learner import Learner
from naruto_add.training.scores import check_can_sample, colour_drift, sliced_distance, spread
from naruto_add.training.sharing import own_parts
from naruto_add.training.weights import Best, Ema, as_drawn

DIVERSITY_STREAM = 2
DIVERSITY_PROMPTS = 2
DIVERSITY_SEEDS = 4


class DistillationRun(ABC):
    """A student that learns by one of `add.method`: its validation, and all the state that methods have in common."""

    ADVICE: str
    """What to change where gradients are not finite."""
    ALARM_ADVICE: Mapping[str, str]
    """The alarms that the method has, and what to change where one rings."""

    def __init__(
        self,
        bundle: ModelBundle,
        student: UNet2DConditionModel,
        *,
        data: AddData,
        params: Add,
        student_scheduler: StudentScheduler,
        precision: Precision,
    ) -> None:
        self.bundle, self.student, self.data, self.params = bundle, student, data, params
        num_steps = len(params.timesteps)
        self.sampler, self._examined_by = (
            Sampler(make_student_scheduler(bundle.scheduler, kind, num_steps), num_steps, 1.0)
            for kind in (student_scheduler, "ddim")
        )
        self.precision, self.parts = precision, own_parts(params)
        self.accelerator = make_accelerator(training_precision(precision))
        if params.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        self.ema = Ema(student, params.ema_decay)
        self.learner = Learner(
            student,
            self.accelerator,
            params=params,
            learning_rate=params.learning_rate,
            ema=self.ema,
            advice=self.ADVICE,
        )
        self.picture_score = PictureScore(bundle, data.held_out.x0, params=params)
        self.best = Best()
        self.scores = Scores()
        self.patience = Patience(params.patience)
        self.alarms = Alarms(params.alarm_window_steps, self.ALARM_ADVICE)

    @abstractmethod
    def train_step(self, step: int) -> Scalars:
        """One update of the student, all of whose randomness depends on (`add.seed`, step)."""

    def state(self) -> dict[str, Stateful]:
        """All that a resumed run needs; the rest is a function of parameters, inputs and the step's number."""
        return {
            "student": self.learner,
            "best": self.best,
            "scores": self.scores,
            "patience": self.patience,
            "alarms": self.alarms,
        }

    def is_settled(self, num_done: int) -> bool:
        """Whether the loss is what it will stay, so that a score that does not fall counts against the run."""
        return num_done > 0

    def validate(self, num_done: int) -> Scalars:
        """Sample the averaged student from held-out noise as users will, score it, and keep the best."""
        with self.ema.applied():
            samples = self.sample_held_out()
            diversity = self.sample_few_prompts()
        reference = self.data.held_out.x0
        scalars = {
            "score": self.picture_score(samples),
            "latent_distance": sliced_distance(samples, reference).item(),
            "sample_mse": (samples - reference).square().mean().item(),
            "colour_drift": colour_drift(samples, reference).item(),
            "diversity": (spread(diversity) / reference.std()).item(),
        }
        is_best = self.best.offer(scalars["score"], num_done, self.ema.average())
        self.scores.note(scalars, is_best=is_best)
        self.patience.note(is_best=is_best, counts=self.is_settled(num_done))
        self.alarms.note_validation(num_done, colour_drift=scalars["colour_drift"], diversity=scalars["diversity"])
        return scalars

    def refuse_hopeless(self) -> None:
        """Raise StageError for a student that cannot sample at all: what follows the warm-up would not mend it.

        By DDIM, whatever the student's sampler: one that re-noises forgets the noise whose sample is compared.
        """
        held_out = self.data.held_out
        samples = self._sample(held_out.noise, held_out.rows, self._examined_by)
        check_can_sample(samples, held_out.x0, constant=self.data.train.x0.mean(dim=0))

    def sample_held_out(self) -> Float[Tensor, "held_out c h w"]:
        """The student's samples from the held-out pairs' noise, at its own number of steps."""
        return self._sample(self.data.held_out.noise, self.data.held_out.rows, self.sampler)

    def sample_few_prompts(self) -> Float[Tensor, "prompts seeds c h w"]:
        """The student's samples of a few held-out prompts, each from the same few noises."""
        rows = self.data.held_out.rows.unique()[:DIVERSITY_PROMPTS]
        generator = step_generator(self.params.seed, 0, DIVERSITY_STREAM)
        noise = torch.randn(DIVERSITY_SEEDS, *self.bundle.latent_shape, generator=generator)
        samples = self._sample(noise.repeat(len(rows), 1, 1, 1), rows.repeat_interleave(DIVERSITY_SEEDS), self.sampler)
        return samples.unflatten(0, (len(rows), DIVERSITY_SEEDS))

    @property
    def num_skipped(self) -> int:
        """Updates that were skipped because a gradient was not finite."""
        return self.learner.guard.num_skipped

    def metrics(self) -> dict[str, float | int]:
        """The scores of the student at the start and at its best, and what was skipped."""
        return {
            "best_step": self.best.step,
            "skipped_steps": self.num_skipped,
            **self.alarms.metrics(),
            **self.scores.values,
        }

    def _sample(
        self, noise: Float[Tensor, "batch c h w"], rows: Int[Tensor, " batch"], sampler: Sampler
    ) -> Float[Tensor, "batch c h w"]:
        return sample_shared(
            as_drawn(self.student, self.precision),
            bundle=self.bundle,
            noise=noise,
            prompt_embeds=self.data.prompt_embeds[rows],
            sampler=sampler,
            seed=self.params.seed,
        )


def training_precision(precision: Precision) -> Precision:
    """bf16 where half precision is asked for: fp16 needs a gradient scaler, which two losses must not share."""
    return "fp32" if precision == "fp32" else "bf16"
