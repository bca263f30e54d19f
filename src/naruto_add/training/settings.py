"""What the trainings of the student take from the shared sections `base` and `sampling`."""

from dataclasses import dataclass

from naruto_add.config.schema import Precision


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """How the teacher is sampled, at which timesteps the student is, and the precision of both.

    All of these change what is trained, so a checkpoint belongs to one of these objects.
    """

    guidance_scale: float
    pool_steps: int
    student_timesteps: list[int]
    prompt_template: str
    caption_chunks: int
    frozen_precision: Precision
    autocast: Precision
