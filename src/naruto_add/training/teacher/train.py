"""The teacher: the base model finetuned by LoRA on the data set, chosen by its validation loss, merged."""

from pathlib import Path

from naruto_add.diffusion.bundle import ModelBundle, load_bundle, save_bundle
from naruto_add.files import new_folder, write_json
from naruto_add.models.lora import merge_lora, save_lora
from naruto_add.params import Base, Teacher
from naruto_add.training.curves import Scalars
from naruto_add.training.loop import run_steps
from naruto_add.training.sharing import is_main, main_first
from naruto_add.training.teacher.inputs import load_data
from naruto_add.training.teacher.run import Denoiser, TeacherRun


def train_teacher(
    dataset_dir: Path,
    params: Teacher,
    *,
    base: Base,
    guidance_scale: float,
    out_dir: Path,
    lora_dir: Path,
    checkpoint_dir: Path,
    curves_path: Path,
    metrics_path: Path,
    validation_grid_path: Path,
) -> None:
    """Write the merged pipeline, the adapters alone, curves, figures and a grid of validation pictures.

    `checkpoint_dir` must belong to this configuration alone: it holds caches and what a killed run resumes from.
    """
    # In half precision the base weights would round away much of what is merged into them; autocast saves the time.
    bundle = load_bundle(base.model_copy(update={"precision": "fp32"}))
    with main_first():
        data = load_data(bundle, params, dataset_dir=dataset_dir, cache_dir=checkpoint_dir)
    run = TeacherRun(bundle, data, params=params, precision=base.precision, guidance_scale=guidance_scale)

    def validate(num_done: int) -> Scalars:
        scalars = run.validate(num_done)
        if is_main():
            run.pictures.write(validation_grid_path)
        return scalars

    run_steps(
        run.train_step,
        name="teacher",
        num_steps=params.num_steps,
        state=run.state(),
        validate=validate,
        validation_every_steps=params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
    )
    run.best.copy_to(run.denoiser)
    if is_main():
        _save(bundle, run.denoiser, out_dir=out_dir, lora_dir=lora_dir)
        write_json(metrics_path, run.metrics())
        run.pictures.write(validation_grid_path)


def _save(bundle: ModelBundle, denoiser: Denoiser, *, out_dir: Path, lora_dir: Path) -> None:
    text_encoder = None if denoiser.text_encoder is None else bundle.text_encoder
    with new_folder(lora_dir) as folder:
        save_lora(folder, unet=bundle.unet, text_encoder=text_encoder)
    merge_lora(denoiser)
    with new_folder(out_dir) as folder:
        save_bundle(bundle, folder)
