"""The entry point of `add`: distillation of the teacher into a student that needs few steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from naruto_add.config.schema import Add, StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle, load_pipeline_folder, load_unet, save_unet
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.runtime.files import new_folder, write_json
from naruto_add.runtime.sharing import is_main, main_first
from naruto_add.training.add.adversarial import AdversarialTrainer
from naruto_add.training.add.consistency import ConsistencyTrainer
from naruto_add.training.add.dataset import AddData, load_data
from naruto_add.training.add.image_text import ImageText, load_image_text
from naruto_add.training.add.multi_resolution import sample_other_sizes
from naruto_add.training.add.trainer import DistillationTrainer
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.pool import load_pool
from naruto_add.training.settings import DistillationSettings


def distill(
    params: Add,
    settings: DistillationSettings,
    *,
    student_scheduler: StudentScheduler,
    dataset_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    pool_path: Path,
    pool_cache_dir: Path,
    out_dir: Path,
    metrics_path: Path,
    validation_grid_path: Path,
    run: TrainingRun,
) -> None:
    """Write the distilled U-Net: the averaged weights that are kept (see `Selection`).

    `run.checkpoint_dir` also contains caches. `pool_cache_dir` may be shared by all configurations that have the same
    `POOL_CODE`.
    """
    bundle = load_pipeline_folder(
        teacher_dir, precision=settings.frozen_precision, caption_chunks=settings.caption_chunks
    )
    student = load_unet(student_dir, precision="fp32", scheduler=bundle.scheduler).requires_grad_(True)
    move_to_cpu(student)  # until the data is ready
    data, image_text = _load_inputs(
        bundle,
        pool_path,
        params=params,
        settings=settings,
        dataset_dir=dataset_dir,
        cache_dir=run.checkpoint_dir,
        pool_cache_dir=pool_cache_dir,
    )
    student.to(bundle.device)
    shared: dict[str, Any] = {
        "data": data,
        "params": params,
        "settings": settings,
        "student_scheduler": student_scheduler,
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
        run,
        name="add",
        num_steps=params.num_steps,
        state=trainer.state(),
        num_weights=trainer.learner.num_weights,
        validate=trainer.validate,
        validation_every_steps=params.validation_every_steps,
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
    settings: DistillationSettings,
    dataset_dir: Path,
    cache_dir: Path,
    pool_cache_dir: Path,
) -> tuple[AddData, ImageText | None]:
    """The data, with other picture sizes, and the image-text network if its loss is used."""
    pool, image_text = load_pool(pool_path), None
    options: dict[str, Any] = {
        "params": params,
        "prompt_template": settings.prompt_template,
        "dataset_dir": dataset_dir,
        "cache_dir": cache_dir,
    }
    with main_first():
        data = load_data(bundle, pool, **options)
        if params.method == "adversarial" and params.image_text_weight:
            image_text = load_image_text(bundle, data.prompts, **options)
    other_sizes = sample_other_sizes(  # outside `main_first`: all processes draw a part
        bundle,
        data,
        prompts=pool.prompts,
        params=params,
        settings=settings,
        pool_cache_dir=pool_cache_dir,
    )
    return replace(data, other_sizes=other_sizes), image_text
