"""The stage `export`: the distilled student and the teacher in the formats of `export.formats`.

Everything is in one folder. diffusers reads only the sub-folders that model_index.json names, so its files are at the
top and the others are beside them in `lora/`, `single_file/`, `onnx/` and `tiny_decoder/`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from naruto_add.config.schema import Base, Export, Sampling
from naruto_add.data.dataset import load_split
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, load_pipeline_folder, load_unet
from naruto_add.diffusion.sampling import make_student_scheduler
from naruto_add.export import lora, onnx_files, single_file
from naruto_add.export.diffusers_folder import write_diffusers_folder
from naruto_add.export.model_card import CardFacts
from naruto_add.export.onnx_pipeline import OnnxPipeline
from naruto_add.export.settings import SamplingSettings
from naruto_add.export.tiny_decoder import OFF, write_tiny_decoder
from naruto_add.runtime.compute import DTYPES
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_folder, read_json, write_json

MIB = 2**20
HALF_TOLERANCE = 1e-3
"""Largest allowed difference of a weight stored in fp16; of weights above 1, relative to them."""

Figures = dict[str, float | int | str]


def export_student(
    params: Export,
    *,
    base: Base,
    sampling: Sampling,
    teacher_dir: Path,
    lora_dir: Path,
    distilled_dir: Path,
    dataset_dir: Path,
    evaluate_metrics_path: Path,
    add_metrics_path: Path,
    out_dir: Path,
    metrics_path: Path,
) -> None:
    """Write every format, read each back, compare it to the model, and write sizes and differences.

    Raises StageError, and leaves no folder, if one differs by more than its tolerance or cannot be written.
    """
    if "onnx" in params.formats:
        onnx_files.require_onnx()
    teacher = load_pipeline_folder(teacher_dir, precision="fp32")
    student = load_pipeline_folder(teacher_dir, precision="fp32")
    student.unet = load_unet(distilled_dir, precision="fp32")
    prompts = [fill_template(base.prompt_template, prompt) for prompt in params.prompts]
    timesteps = sampling.student_timesteps
    scheduler = make_student_scheduler(student.scheduler, sampling.student_scheduler, len(timesteps))
    dataset = read_json(dataset_dir / "source.json")
    facts = CardFacts(
        base_model=base.model,
        source=dataset["source"],
        hub_dataset=dataset["hub_dataset"],
        method=read_json(add_metrics_path)["method"],
        timesteps=timesteps,
        prompt=prompts[0],
        precision=params.precision,
        metrics=read_json(evaluate_metrics_path),
    )
    figures: dict[str, Figures] = {}
    with new_folder(out_dir) as folder:
        parity = write_diffusers_folder(
            student,
            folder,
            scheduler=scheduler,
            facts=facts,
            settings=SamplingSettings(num_inference_steps=len(timesteps), prompt_template=base.prompt_template),
            prompts=prompts,
            seed=params.seed,
        )
        figures["diffusers"] = {
            "noise_pred_max_abs_diff": parity.noise_pred,
            "images_max_abs_diff": parity.images,
            "size_mib": _size_mib(folder),
            "unet_num_parameters": student.unet.num_parameters(),
        }
        if "lora" in params.formats:
            captions = [item.prompt for item in load_split(dataset_dir, "train", prompt_template=base.prompt_template)]
            lora_facts = lora.LoraFacts(
                base_model=base.model,
                prompt_template=base.prompt_template,
                resolution_px=base.resolution_px,
                captions=captions,
            )
            figures["lora"] = _export_lora(lora_dir, folder / "lora", facts=lora_facts, precision=params.precision)
        if "single_file" in params.formats:
            figures["single_file"] = _export_single_files(
                teacher, student, folder / "single_file", base=base, num_steps=len(timesteps)
            )
        if "onnx" in params.formats:
            figures["onnx"], torch_times = _export_onnx(
                student,
                folder / "onnx",
                scheduler=scheduler,
                timesteps=timesteps,
                prompt_template=base.prompt_template,
                prompts=prompts,
                seed=params.seed,
            )
            figures["diffusers"] |= torch_times
        if params.tiny_decoder != OFF:
            figures["tiny_decoder"] = write_tiny_decoder(
                student,
                folder / "tiny_decoder",
                source=params.tiny_decoder,
                num_steps=params.tiny_decoder_steps,
                dataset_dir=dataset_dir,
                seed=params.seed,
                dtype=DTYPES[params.precision],
            )
        write_json(metrics_path, _flat(figures))


def _export_lora(lora_dir: Path, folder: Path, *, facts: lora.LoraFacts, precision: str) -> Figures:
    source, target = lora_dir / lora.DIFFUSERS_FILE, folder / lora.FILE
    lora.write_kohya_lora(source, target, facts=facts, dtype=DTYPES[precision])
    difference = lora.largest_difference(source, target)
    _check("lora", difference, 0.0 if precision == "fp32" else HALF_TOLERANCE)
    return {"weights_max_diff": difference, "size_mib": _size_mib(folder)}


def _export_single_files(
    teacher: ModelBundle, student: ModelBundle, folder: Path, *, base: Base, num_steps: int
) -> Figures:
    if reason := single_file.unfit_reason(teacher.unet.config):
        sys.stderr.write(f"export: single_file: no tool for Stable Diffusion 1.x loads this model: {reason}\n")
    single_file.write_single_files(teacher, student, folder, prompt_template=base.prompt_template, num_steps=num_steps)
    difference = max(
        single_file.largest_difference(teacher, folder / single_file.TEACHER),
        single_file.largest_difference(student, folder / single_file.STUDENT),
    )
    _check("single_file", difference, HALF_TOLERANCE)
    return {
        "weights_max_diff": difference,
        "teacher_size_mib": _size_mib(folder / single_file.TEACHER),
        "student_size_mib": _size_mib(folder / single_file.STUDENT),
    }


def _export_onnx(
    student: ModelBundle,
    folder: Path,
    *,
    scheduler: Any,
    timesteps: list[int],
    prompt_template: str,
    prompts: list[str],
    seed: int,
) -> tuple[Figures, Figures]:
    """The figures of the ONNX files, and the latencies of torch in the same run."""
    onnx_files.write_onnx(
        student, folder, scheduler=scheduler, num_steps=len(timesteps), prompt_template=prompt_template
    )
    pipeline = OnnxPipeline(folder, num_threads=torch.get_num_threads())
    parity = onnx_files.check_onnx(
        student, pipeline, scheduler=scheduler, timesteps=timesteps, prompts=prompts, seed=seed
    )
    latency = onnx_files.latencies_ms(
        student, pipeline, scheduler=scheduler, num_steps=len(timesteps), prompt=prompts[0]
    )
    sizes: Figures = {
        "noise_pred_max_abs_diff": parity.noise_pred,
        "images_mean_abs_diff_of_255": parity.images,
        "size_mib": _size_mib(folder),
    }
    return {**sizes, **latency.onnx}, {**latency.torch}


def _check(name: str, found: float, allowed: float) -> None:
    if not found <= allowed:
        raise StageError(
            f"export.formats: {name}: its weights differ from the model's by {found:.2g}, more than {allowed:.2g}; "
            f"leave {name} out, or use export.precision fp32"
        )


def _size_mib(path: Path) -> float:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files) / MIB


def _flat(figures: Mapping[str, Figures]) -> Figures:
    return {f"{name}.{key}": value for name, values in figures.items() for key, value in values.items()}
