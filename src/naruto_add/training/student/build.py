"""The student before adversarial training: blocks removed, then warmed up in two phases.

Knowledge distillation (BK-SDM, Kim et al. 2023) mends what the pruning broke: teacher samples, noised afresh, at any
timestep. It departs from the paper where the output target is the teacher's *guided* prediction, so that guidance is
built in. Its scale is fixed: the prediction is linear in the scale, so a range would have the same optimum as its mean,
only with more variance. Errors in epsilon are weighted by the square of how far they move the student's next state,
features by the power of the teacher's.

Then the student learns the teacher's way: at each of its few timesteps it is shown a state that the guided teacher
passed through, and its one DDIM step is to arrive where the teacher's several steps did (progressive distillation,
Salimans & Ho 2022, all halvings at once). Where x_t leads is decided, so that this regression does not blur; the
picture that a noise ends in, asked for at t = 999 as in ADD, is hardly predictable, and a student so taught smears.
"""

from pathlib import Path

from diffusers import UNet2DConditionModel

from naruto_add.compute import Precision
from naruto_add.diffusion.bundle import ModelBundle, load_pipeline_folder, load_unet, save_unet
from naruto_add.files import new_folder, write_json
from naruto_add.models.student import num_parameters, shrink_unet
from naruto_add.params import Student
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import Pool, draw_pool, pool_prompts, split_pool
from naruto_add.training.sharing import is_main
from naruto_add.training.student.inputs import make_lesson
from naruto_add.training.student.picture_pool import make_picture_pool
from naruto_add.training.student.run import StudentRun


def build_student(
    teacher_dir: Path,
    dataset_dir: Path,
    *,
    params: Student,
    precision: Precision,
    guidance_scale: float,
    prompt_template: str,
    timesteps: list[int],
    out_dir: Path,
    pool_path: Path,
    checkpoint_dir: Path,
    pool_cache_dir: Path,
    curves_path: Path,
    metrics_path: Path,
) -> None:
    """Write the student's U-Net (fp32), the pool, the loss curves and the metrics.

    With `params.num_steps` 0 the student keeps its inherited weights. The weights kept are the averaged ones that score
    best on the held-out part of the pool, the inherited ones included. `pool_cache_dir` belongs to the code that draws
    (`POOL_CODE`), whatever is built from the samples.
    """
    bundle = load_pipeline_folder(teacher_dir, precision=precision)
    student = shrink_unet(load_unet(teacher_dir / "unet", precision="fp32"), params.architecture).to(bundle.device)
    pool = _make_pool(
        bundle,
        dataset_dir,
        params=params,
        guidance_scale=guidance_scale,
        prompt_template=prompt_template,
        timesteps=timesteps,
        path=pool_path,
        checkpoint_dir=checkpoint_dir,
        pool_cache_dir=pool_cache_dir,
    )
    lesson, held_out = (
        make_lesson(
            bundle,
            part,
            guidance_scale=guidance_scale,
            timesteps=timesteps,
            cache_dir=checkpoint_dir,
        )
        for part in split_pool(pool)
    )
    run = StudentRun(student, lesson=lesson, held_out=held_out, params=params, precision=precision)
    start = run.score()
    _warm_up(run, checkpoint_dir=checkpoint_dir, curves_path=curves_path)
    scores = {"start": start, "best": run.score()}
    if is_main():
        with new_folder(out_dir) as folder:
            save_unet(student, folder)
        own = {f"{when}_{name}": value for when, score in scores.items() for name, value in score.items()}
        outcome = {"best_step": run.best.step, "skipped_steps": run.learner.guard.num_skipped, **own}
        write_json(metrics_path, {**_sizes(bundle.unet, student), "pool_size": len(pool), **outcome})


def _make_pool(
    bundle: ModelBundle,
    dataset_dir: Path,
    *,
    params: Student,
    guidance_scale: float,
    prompt_template: str,
    timesteps: list[int],
    path: Path,
    checkpoint_dir: Path,
    pool_cache_dir: Path,
) -> Pool:
    """Teacher samples, or training pictures and those few of these samples that the student is scored on."""
    is_teacher = params.pool_source == "teacher"
    pool = draw_pool(
        bundle,
        prompts=pool_prompts(dataset_dir, prompt_template),
        size=params.pool_size,
        num_steps=params.pool_steps,
        timesteps=timesteps,
        guidance_scale=guidance_scale,
        seed=params.seed,
        path=path,
        cache_dir=pool_cache_dir,
        held_out_only=not is_teacher,
    )
    if is_teacher:
        return pool
    return make_picture_pool(
        bundle,
        pool,
        dataset_dir=dataset_dir,
        prompt_template=prompt_template,
        seed=params.seed,
        path=path,
        checkpoint_dir=checkpoint_dir,
    )


def _warm_up(run: StudentRun, *, checkpoint_dir: Path, curves_path: Path) -> None:
    run_steps(
        run.train_step,
        name="student",
        num_steps=run.params.num_steps,
        state=run.state(),
        validate=run.validate,
        validation_every_steps=run.params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
    )
    run.best.copy_to(run.student)


def _sizes(teacher_unet: UNet2DConditionModel, student: UNet2DConditionModel) -> dict[str, float]:
    teacher_params, student_params = num_parameters(teacher_unet), num_parameters(student)
    return {
        "teacher_params": teacher_params,
        "student_params": student_params,
        "params_ratio": student_params / teacher_params,
    }
