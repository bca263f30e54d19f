"""The stage `student`: a U-Net with fewer layers than the teacher's, warmed up on teacher samples in up to two phases.

Knowledge distillation (BK-SDM, Kim et al. 2023), in the first `student.knowledge_steps`, repairs the damage that the
removal of blocks did. It trains on pool samples with new noise, at any timestep. It departs from the paper: the target
of the output loss is the teacher's *guided* prediction, so that guidance is distilled too. The guidance scale is fixed,
because the prediction is linear in it: a random scale would have the same optimum as its mean, and more variance.
Errors in epsilon are weighted by the squared distance by which they move the student's next state.

Trajectory distillation then trains the student at its few timesteps: from a state of the guided teacher's trajectory,
one DDIM step of the student has to reach the state that the teacher reaches in several steps (progressive distillation,
Salimans & Ho 2022, in a single round). The next state is a function of x_t, so this regression does not blur. A
regression from pure noise to x0, as at t = 999 in ADD, would blur, because x0 can hardly be predicted from it.
"""

from pathlib import Path

from diffusers import UNet2DConditionModel

from naruto_add.config.schema import Student
from naruto_add.diffusion.bundle import load_pipeline_folder, load_unet, save_unet
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.models.student import shrink_unet
from naruto_add.runtime.files import new_folder, write_json
from naruto_add.runtime.sharing import is_main
from naruto_add.training.draw_pool import draw_pool, pool_buckets, pool_prompts
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.pool import split_pool
from naruto_add.training.settings import DistillationSettings
from naruto_add.training.student.dataset import load_warmup_data
from naruto_add.training.student.trainer import StudentTrainer


def build_student(
    params: Student,
    settings: DistillationSettings,
    *,
    teacher_dir: Path,
    dataset_dir: Path,
    out_dir: Path,
    pool_path: Path,
    pool_cache_dir: Path,
    metrics_path: Path,
    run: TrainingRun,
) -> None:
    """Write the student's U-Net (fp32), the pool, curves and metrics.

    The student has the averaged weights with the lowest error on the held-out pool samples; with `params.num_steps` 0,
    the inherited weights. `run.checkpoint_dir` also contains caches. `pool_cache_dir` may be shared by all
    configurations that have the same `POOL_CODE`.
    """
    bundle = load_pipeline_folder(
        teacher_dir, precision=settings.frozen_precision, caption_chunks=settings.caption_chunks
    )
    move_to_cpu(bundle.vae)
    teacher_unet = load_unet(teacher_dir / "unet", precision="fp32", scheduler=bundle.scheduler)
    move_to_cpu(teacher_unet)
    student = shrink_unet(teacher_unet, params.architecture)
    del teacher_unet
    prompts = pool_prompts(dataset_dir, settings.prompt_template)
    pool = draw_pool(
        bundle,
        prompts=prompts,
        buckets=pool_buckets(dataset_dir, settings.prompt_template, set(prompts)),
        size=params.pool_size,
        num_steps=settings.pool_steps,
        timesteps=settings.student_timesteps,
        guidance_scale=settings.guidance_scale,
        seed=params.seed,
        path=pool_path,
        cache_dir=pool_cache_dir,
    )
    data, held_out = (
        load_warmup_data(
            bundle,
            part,
            guidance_scale=settings.guidance_scale,
            timesteps=settings.student_timesteps,
            cache_dir=run.checkpoint_dir,
        )
        for part in split_pool(pool)
    )
    move_to_cpu(bundle.text_encoder)
    student.to(bundle.device)
    trainer = StudentTrainer(
        student,
        data=data,
        held_out=held_out,
        params=params,
        frozen_precision=settings.frozen_precision,
        autocast=settings.autocast,
    )
    scores = _warm_up(trainer, run)
    if is_main():
        with new_folder(out_dir) as folder:
            save_unet(student, folder)
        pool_size = sum(map(len, (pool, *pool.buckets)))
        write_json(metrics_path, {**_sizes(bundle.unet, student), "pool_size": pool_size, **scores})


def _warm_up(trainer: StudentTrainer, run: TrainingRun) -> dict[str, float]:
    """Train the student; it then has the best weights. Returns the scores at the start and of the best weights."""
    start = trainer.score()
    run_steps(
        trainer.train_step,
        run,
        name="student",
        num_steps=trainer.params.num_steps,
        state=trainer.state(),
        num_weights=trainer.learner.num_weights,
        validate=trainer.validate,
        validation_every_steps=trainer.params.validation_every_steps,
        pictures=trainer.pictures,
    )
    trainer.best.copy_to(trainer.student)
    return {
        **{f"start_{name}": value for name, value in start.items()},
        **{f"best_{name}": value for name, value in trainer.score().items()},
        "best_step": trainer.best.step,
        "skipped_steps": trainer.learner.guard.num_skipped,
    }


def _sizes(teacher_unet: UNet2DConditionModel, student: UNet2DConditionModel) -> dict[str, float]:
    teacher_params, student_params = teacher_unet.num_parameters(), student.num_parameters()
    return {
        "teacher_params": teacher_params,
        "student_params": student_params,
        "params_ratio": student_params / teacher_params,
    }
