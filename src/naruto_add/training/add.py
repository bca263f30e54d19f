"""Adversarial diffusion distillation (ADD, Sauer et al. 2023) in latent space (LADD, Sauer et al. 2024).

The student, called at four timesteps, is pulled towards the guided teacher's own sample from the same noise, and
towards what a discriminator on the teacher's features takes for real. This is the entry; `add_run` holds the step.
"""

from pathlib import Path

from naruto_add.compute import Precision
from naruto_add.diffusion.bundle import load_pipeline_folder, load_unet, save_unet
from naruto_add.files import new_folder, write_json
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add_image_text import ImageText, load_image_text
from naruto_add.training.add_inputs import load_data
from naruto_add.training.add_run import AddRun, training_precision
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import load_pool
from naruto_add.training.sharing import is_main, main_first


def distill(
    dataset_dir: Path,
    teacher_dir: Path,
    *,
    student_dir: Path,
    pool_path: Path,
    params: Add,
    precision: Precision,
    guidance_scale: float,
    student_scheduler: StudentScheduler,
    prompt_template: str,
    out_dir: Path,
    checkpoint_dir: Path,
    curves_path: Path,
    metrics_path: Path,
) -> None:
    """Write the distilled U-Net: of all averaged weights validated, those with the best held-out score.

    `checkpoint_dir` must belong to this configuration alone: it holds caches and what a killed run resumes from.
    """
    bundle = load_pipeline_folder(teacher_dir, precision=training_precision(precision))
    student = load_unet(student_dir, precision="fp32").requires_grad_(True)
    with main_first():
        data = load_data(
            bundle,
            load_pool(pool_path),
            params=params,
            prompt_template=prompt_template,
            dataset_dir=dataset_dir,
            cache_dir=checkpoint_dir,
        )
        image_text: ImageText | None = None
        if params.image_text_weight:
            image_text = load_image_text(
                bundle,
                data.prompts,
                params=params,
                prompt_template=prompt_template,
                dataset_dir=dataset_dir,
                cache_dir=checkpoint_dir,
            )
    run = AddRun(
        bundle,
        student,
        data=data,
        params=params,
        guidance_scale=guidance_scale,
        student_scheduler=student_scheduler,
        precision=precision,
        image_text=image_text,
    )
    if params.gate:
        run.refuse_hopeless()
    run_steps(
        run.train_step,
        name="add",
        num_steps=params.num_steps,
        state=run.state(),
        validate=run.validate,
        validation_every_steps=params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
        is_finished=run.patience.is_over,
    )
    if is_main():
        run.best.copy_to(student)
        with new_folder(out_dir) as folder:
            save_unet(student, folder)
        write_json(metrics_path, run.metrics())
