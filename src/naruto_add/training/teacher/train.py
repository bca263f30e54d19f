"""The stage `teacher`: the base model finetuned on the data set by LoRA, at its best validation loss, merged."""

from pathlib import Path

from naruto_add.config.schema import Base, Teacher
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, load_bundle, save_bundle
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.models.lora import merge_lora, save_lora
from naruto_add.runtime.files import new_folder, write_json
from naruto_add.runtime.sharing import is_main, main_first
from naruto_add.training.curves import Scalars
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.teacher.dataset import load_data
from naruto_add.training.teacher.trainer import Denoiser, TeacherTrainer


def train_teacher(
    dataset_dir: Path,
    params: Teacher,
    *,
    base: Base,
    guidance_scale: float,
    out_dir: Path,
    lora_dir: Path,
    metrics_path: Path,
    validation_grid_path: Path,
    run: TrainingRun,
) -> None:
    """Write the merged pipeline, the adapters alone, curves, metrics and the validation grid.

    `run.checkpoint_dir` also contains caches. Raises StageError if the base model or the data set cannot be used, or if
    gradients stay not finite.
    """
    # Merging into weights of half precision would round away most of the update; autocast makes training fast anyway.
    bundle = load_bundle(base.model_copy(update={"frozen_precision": "fp32"}))
    trainer = _make_trainer(
        bundle, dataset_dir, params=params, base=base, guidance_scale=guidance_scale, cache_dir=run.checkpoint_dir
    )

    def validate(num_done: int) -> Scalars:
        scalars = trainer.validate(num_done)
        if is_main():
            trainer.grid.write(validation_grid_path)
        return scalars

    run_steps(
        trainer.train_step,
        run,
        name="teacher",
        num_steps=params.num_steps,
        state=trainer.state(),
        num_weights=trainer.learner.num_weights,
        validate=validate,
        validation_every_steps=params.validation_every_steps,
        pictures=trainer.grid.latest,
    )
    trainer.best.copy_to(trainer.denoiser)
    if is_main():
        _save(bundle, trainer.denoiser, out_dir=out_dir, lora_dir=lora_dir)
        write_json(metrics_path, trainer.metrics())
        trainer.grid.write(validation_grid_path)


def _make_trainer(
    bundle: ModelBundle, dataset_dir: Path, *, params: Teacher, base: Base, guidance_scale: float, cache_dir: Path
) -> TeacherTrainer:
    move_to_cpu(bundle.unet)  # until pictures and prompts are encoded
    with main_first():
        data = load_data(
            bundle,
            dataset_dir=dataset_dir,
            prompt_template=base.prompt_template,
            drawn_prompts=[fill_template(base.prompt_template, prompt) for prompt in params.validation_prompts],
            flip=params.flip,
            is_text_encoder_trained=params.lora_text_encoder,
            cache_dir=cache_dir,
        )
    bundle.unet.to(bundle.device)
    return TeacherTrainer(bundle, data, params=params, autocast=base.autocast, guidance_scale=guidance_scale)


def _save(bundle: ModelBundle, denoiser: Denoiser, *, out_dir: Path, lora_dir: Path) -> None:
    text_encoder = None if denoiser.text_encoder is None else bundle.text_encoder
    with new_folder(lora_dir) as folder:
        save_lora(folder, unet=bundle.unet, text_encoder=text_encoder)
    merge_lora(denoiser)
    with new_folder(out_dir) as folder:
        save_bundle(bundle, folder)
