"""The formats that torch reads: the diffusers folder, the teacher's LoRA, and single files in the original layout."""

import shutil
from pathlib import Path

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.export import lora, single_file
from naruto_add.export.card_facts import CardFacts
from naruto_add.export.card_pictures import PLOT, write_pictures
from naruto_add.export.diffusers_folder import IMAGE_TOLERANCE, write_diffusers_folder
from naruto_add.export.model_card import lora_card
from naruto_add.export.models import EXAMPLE_TEACHER_STEPS, Exported, ExportModels, Figures, check_weights, size_mib
from naruto_add.export.original_layout import Numbering
from naruto_add.export.reload import load_folder, load_lora, load_single_file
from naruto_add.generate.settings import SamplingSettings
from naruto_add.runtime.compute import DTYPES

HALF_TOLERANCE = 1e-3
"""Largest allowed difference of a weight stored in fp16; of weights above 1, relative to them."""


def export_diffusers(models: ExportModels, folder: Path, facts: CardFacts) -> Exported:
    """Write the student with its card and its pictures, at the top of the folder."""
    settings = SamplingSettings(
        num_inference_steps=models.sampling.student_steps,
        prompt_template=models.base.prompt_template,
        caption_chunks=models.base.caption_chunks,
    )
    parity = write_diffusers_folder(
        models.student,
        folder,
        scheduler=models.scheduler,
        facts=facts,
        settings=settings,
        prompts=models.prompts,
        seed=models.params.seed,
    )
    size = size_mib(folder)
    student = f"student, {models.sampling.student_steps} steps"
    teacher = f"teacher, {EXAMPLE_TEACHER_STEPS} steps"
    write_pictures(folder, models.prompts, {student: models.student_pictures(), teacher: models.teacher_pictures})
    return Exported(
        figures={
            "noise_pred_max_abs_diff": parity.noise_pred.largest,
            "images_max_abs_diff": parity.images.largest,
            "size_mib": size,
            "unet_num_parameters": models.student.unet.num_parameters(),
        },
        job=models.diffusers_job(load_folder(folder)),
    )


def export_lora(
    models: ExportModels, folder: Path, *, lora_dir: Path, captions: list[str], card_facts: CardFacts
) -> Exported:
    """Write the adapters in `lora_dir` in kohya's layout, with a card. `captions` are those of the training."""
    facts = lora.LoraFacts(
        base_model=models.base.model,
        prediction_type=models.teacher.scheduler.config.prediction_type,
        prompt_template=models.base.prompt_template,
        caption_chunks=models.base.caption_chunks,
        resolution_px=models.base.resolution_px,
        captions=captions,
    )
    precision = models.params.precision
    source, target = lora_dir / lora.DIFFUSERS_FILE, folder / "lora" / lora.FILE
    lora.write_kohya_lora(source, target, facts=facts, dtype=DTYPES[precision])
    difference = lora.largest_difference(source, target)
    if precision == "fp32":
        check_weights("lora", difference, 0.0, remedy="leave lora out")
    else:
        check_weights("lora", difference, HALF_TOLERANCE, remedy="leave lora out, or use export.precision fp32")
    pipeline = load_lora(target, models.base)
    figures: Figures = {
        "weights_max_diff": difference,
        "images_max_abs_diff": models.check_pictures("lora", pipeline, models.teacher, IMAGE_TOLERANCE[precision]),
        "size_mib": size_mib(target.parent),
    }
    write_pictures(target.parent, models.prompts, {"base model with the LoRA": models.teacher_pictures})
    if card_facts.has_plot:
        shutil.copyfile(folder / PLOT, target.parent / PLOT)
    (target.parent / "README.md").write_text(lora_card(card_facts, lora.FILE), encoding="utf-8")
    return Exported(figures=figures, job=models.diffusers_job(pipeline))


def export_single_files(models: ExportModels, folder: Path) -> dict[str, Exported]:
    """Write the files and compare their weights; diffusers draws with all but the one numbered with gaps."""
    folder = folder / "single_file"
    single_file.write_single_files(
        models.teacher,
        models.student,
        folder,
        prompt_template=models.base.prompt_template,
        num_steps=models.sampling.student_steps,
        student_scheduler=models.sampling.student_scheduler,
    )
    files = {
        "single_file.teacher": _single_file(models, models.teacher, folder / single_file.TEACHER),
        "single_file.student": _single_file(models, models.student, folder / single_file.STUDENT),
    }
    gaps = folder / single_file.STUDENT_GAPS
    if gaps.exists():
        files["single_file.student_gaps"] = _single_file(models, models.student, gaps, numbering="gaps")
    return files


def _single_file(
    models: ExportModels, bundle: ModelBundle, path: Path, *, numbering: Numbering = "contiguous"
) -> Exported:
    difference = single_file.largest_difference(bundle, path, numbering)
    remedy = "leave single_file out: whatever export.precision is, its weights are fp16"
    check_weights("single_file", difference, HALF_TOLERANCE, remedy=remedy)
    weights: Figures = {"size_mib": size_mib(path), "weights_max_diff": difference}
    if numbering == "gaps":
        return Exported(figures=weights)
    pipeline = load_single_file(path, bundle)
    pictures = models.check_pictures("single_file", pipeline, bundle, IMAGE_TOLERANCE["fp16"])
    return Exported(figures={**weights, "images_max_abs_diff": pictures}, job=models.diffusers_job(pipeline))
