"""The entry point of `add`: distillation of the teacher into a student that needs few steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from naruto_add.config.schema import Add, Precision, StudentScheduler, Tracking
from naruto_add.diffusion.bundle import ModelBundle, load_pipeline_folder, load_unet, save_unet
from naruto_add.diffusion.placement import rest
from naruto_add.runtime.files import new_folder, write_json
from naruto_add.runtime.sharing import is_main, main_first
from naruto_add.training.add.adversarial import AdversarialTrainer
from naruto_add.training.add.consistency import ConsistencyTrainer
from naruto_add.training.add.dataset import AddData, load_data
from naruto_add.training.add.image_text import ImageText, load_image_text
from naruto_add.training.add.multi_resolution import sample_other_sizes
from naruto_add.training.add.trainer import DistillationTrainer
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import load_pool


def distill(
    dataset_dir: Path,
    teacher_dir: Path,
    *,
    student_dir: Path,
    pool_path: Path,
    pool_steps: int,
    student_timesteps: list[int],
    guidance_scale: float,
    student_scheduler: StudentScheduler,
    params: Add,
    frozen_precision: Precision,
    autocast: Precision,
    prompt_template: str,
    out_dir: Path,
    checkpoint_dir: Path,
    pool_cache_dir: Path,
    curves_path: Path,
    metrics_path: Path,
    validation_grid_path: Path,
    tracking: Tracking = "none",
) -> None:
    """Write the distilled U-Net: the averaged weights after the last step, unless earlier ones have a better score.

    `checkpoint_dir` is for caches and for the checkpoint that a killed run resumes from; it must be used with this
    configuration only. `pool_cache_dir` may be shared by all configurations, as long as the code of POOL_CODE is equal.
    """
    bundle = load_pipeline_folder(teacher_dir, precision=frozen_precision)
    student = load_unet(student_dir, precision="fp32", scheduler=bundle.scheduler).requires_grad_(True)
    rest(student)  # until the data is ready
    data, image_text = _load_inputs(
        bundle,
        pool_path,
        params=params,
        pool_steps=pool_steps,
        student_timesteps=student_timesteps,
        guidance_scale=guidance_scale,
        prompt_template=prompt_template,
        dataset_dir=dataset_dir,
        cache_dir=checkpoint_dir,
        pool_cache_dir=pool_cache_dir,
    )
    student.to(bundle.device)
    shared: dict[str, Any] = {
        "data": data,
        "params": params,
        "student_timesteps": student_timesteps,
        "student_scheduler": student_scheduler,
        "guidance_scale": guidance_scale,
        "frozen_precision": frozen_precision,
        "autocast": autocast,
    }
    trainer: DistillationTrainer
    match params.method:
        case "adversarial":
            trainer = AdversarialTrainer(bundle, student, image_text=image_text, **shared)
        case "consistency":
            trainer = ConsistencyTrainer(bundle, student, **shared)
    if params.require_trained_student:
        trainer.check_student()
    run_steps(
        trainer.train_step,
        name="add",
        num_steps=params.num_steps,
        state=trainer.state(),
        num_weights=trainer.learner.num_weights,
        validate=trainer.validate,
        validation_every_steps=params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
        tracking=tracking,
        pictures=trainer.grid.latest,
    )
    if is_main():
        trainer.copy_kept_weights()
        with new_folder(out_dir) as folder:
            save_unet(student, folder)
        write_json(metrics_path, trainer.metrics())
        trainer.grid.write(validation_grid_path)


def _load_inputs(
    bundle: ModelBundle,
    pool_path: Path,
    *,
    params: Add,
    pool_steps: int,
    student_timesteps: list[int],
    guidance_scale: float,
    prompt_template: str,
    dataset_dir: Path,
    cache_dir: Path,
    pool_cache_dir: Path,
) -> tuple[AddData, ImageText | None]:
    """The data, with other picture sizes, and the image-text network if its loss is used."""
    pool, image_text = load_pool(pool_path), None
    folders = {"dataset_dir": dataset_dir, "cache_dir": cache_dir}
    with main_first():
        data = load_data(bundle, pool, params=params, prompt_template=prompt_template, **folders)
        if params.method == "adversarial" and params.image_text_weight:
            image_text = load_image_text(
                bundle, data.prompts, params=params, prompt_template=prompt_template, **folders
            )
    other_sizes = sample_other_sizes(  # outside `main_first`: all processes draw a part
        bundle,
        data,
        captions=pool.prompts,
        params=params,
        num_steps=pool_steps,
        student_timesteps=student_timesteps,
        guidance_scale=guidance_scale,
        pool_cache_dir=pool_cache_dir,
    )
    return replace(data, other_sizes=other_sizes), image_text
