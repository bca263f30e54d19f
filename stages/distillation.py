"""What `student` and `add`, which both train the student, read of the shared sections."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from naruto_add.config.schema import Params
    from naruto_add.training.settings import DistillationSettings


def distillation_settings(params: "Params") -> "DistillationSettings":
    """The settings that both trainings get."""
    from naruto_add.training.settings import DistillationSettings

    return DistillationSettings(
        guidance_scale=params.sampling.guidance_scale,
        pool_steps=params.sampling.pool_steps,
        student_timesteps=params.sampling.student_timesteps,
        prompt_template=params.base.prompt_template,
        caption_chunks=params.base.caption_chunks,
        frozen_precision=params.base.frozen_precision,
        autocast=params.base.autocast,
    )
