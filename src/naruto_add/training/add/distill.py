"""Adversarial diffusion distillation: of pictures (ADD, Sauer et al. 2023), of latents (LADD, 2024), or both.

At its few timesteps the student is pulled towards where the guided teacher went from the same noise, and its pictures
towards what a discriminator takes for real. Pictures are latents all the way: only what a network of photographs judges
is decoded. This is the entry; `run` holds the step, and `consistency_run` that of the other method.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from naruto_add.compute import Precision
from naruto_add.diffusion.bundle import ModelBundle, load_pipeline_folder, load_unet, save_unet
from naruto_add.files import new_folder, write_json
from naruto_add.params import Add, StudentScheduler
from naruto_add.training.add.consistency_run import ConsistencyRun
from naruto_add.training.add.distillation_run import DistillationRun, training_precision
from naruto_add.training.add.image_text import ImageText, load_image_text
from naruto_add.training.add.inputs import AddData, load_data
from naruto_add.training.add.resolutions import draw_further
from naruto_add.training.add.run import AddRun
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import load_pool
from naruto_add.training.sharing import is_main, main_first


def distill(
    dataset_dir: Path,
    teacher_dir: Path,
    *,
    student_dir: Path,
    pool_path: Path,
    pool_steps: int,
    params: Add,
    precision: Precision,
    guidance_scale: float,
    student_scheduler: StudentScheduler,
    prompt_template: str,
    out_dir: Path,
    checkpoint_dir: Path,
    pool_cache_dir: Path,
    curves_path: Path,
    metrics_path: Path,
) -> None:
    """Write the distilled U-Net: of all averaged weights validated, those with the best held-out score.

    `checkpoint_dir` must belong to this configuration alone: it holds caches and what a killed run resumes from;
    `pool_cache_dir` is shared, and belongs to the code that draws (`POOL_CODE`).
    """
    run = _make_run(
        load_pipeline_folder(teacher_dir, precision=training_precision(precision)),
        load_unet(student_dir, precision="fp32").requires_grad_(True),
        pool_path=pool_path,
        pool_steps=pool_steps,
        params=params,
        precision=precision,
        guidance_scale=guidance_scale,
        student_scheduler=student_scheduler,
        prompt_template=prompt_template,
        dataset_dir=dataset_dir,
        cache_dir=checkpoint_dir,
        pool_cache_dir=pool_cache_dir,
    )
    _train(run, checkpoint_dir=checkpoint_dir, curves_path=curves_path)
    if is_main():
        run.best.copy_to(run.student)
        with new_folder(out_dir) as folder:
            save_unet(run.student, folder)
        write_json(metrics_path, run.metrics())


def _make_run(
    bundle: ModelBundle,
    student: UNet2DConditionModel,
    *,
    pool_path: Path,
    pool_steps: int,
    params: Add,
    precision: Precision,
    guidance_scale: float,
    student_scheduler: StudentScheduler,
    prompt_template: str,
    dataset_dir: Path,
    cache_dir: Path,
    pool_cache_dir: Path,
) -> DistillationRun:
    """By the method that `add.method` names."""
    data, image_text = _load_inputs(
        bundle,
        pool_path,
        pool_steps=pool_steps,
        params=params,
        guidance_scale=guidance_scale,
        prompt_template=prompt_template,
        dataset_dir=dataset_dir,
        cache_dir=cache_dir,
        pool_cache_dir=pool_cache_dir,
    )
    make: Callable[..., DistillationRun]
    make = partial(AddRun, image_text=image_text) if params.method == "adversarial" else ConsistencyRun
    return make(
        bundle,
        student,
        data=data,
        params=params,
        guidance_scale=guidance_scale,
        student_scheduler=student_scheduler,
        precision=precision,
    )


def _load_inputs(
    bundle: ModelBundle,
    pool_path: Path,
    *,
    pool_steps: int,
    params: Add,
    guidance_scale: float,
    prompt_template: str,
    dataset_dir: Path,
    cache_dir: Path,
    pool_cache_dir: Path,
) -> tuple[AddData, ImageText | None]:
    """What is trained on, and the network that rates pictures by their captions, where it counts."""
    pool = load_pool(pool_path)
    sources: dict[str, Any] = {"prompt_template": prompt_template, "dataset_dir": dataset_dir, "cache_dir": cache_dir}
    with main_first():
        data = load_data(bundle, pool, params=params, **sources)
        is_rated = params.method == "adversarial" and params.image_text_weight > 0
        image_text = load_image_text(bundle, data.prompts, params=params, **sources) if is_rated else None
    further = draw_further(  # by all processes together, so outside the block
        bundle,
        data,
        captions=pool.prompts,
        params=params,
        num_steps=pool_steps,
        guidance_scale=guidance_scale,
        pool_cache_dir=pool_cache_dir,
    )
    return replace(data, further=further), image_text


def _train(run: DistillationRun, *, checkpoint_dir: Path, curves_path: Path) -> None:
    if run.params.gate:
        run.refuse_hopeless()
    run_steps(
        run.train_step,
        name="add",
        num_steps=run.params.num_steps,
        state=run.state(),
        validate=run.validate,
        validation_every_steps=run.params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
        is_finished=run.patience.is_over,
    )
