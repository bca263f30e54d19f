"""The stage `export`: the distilled student and the teacher in the formats of `export.formats`.

Everything is in one folder. diffusers reads only the sub-folders that model_index.json names, so its files are at the
top and the others are in `lora/`, `single_file/`, `onnx/`, `onnx_int8/` and `tiny_decoder/`. The demo page is one file,
`demo.html`.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from naruto_add.config.schema import Base, Export, Sampling
from naruto_add.data.dataset import load_split
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import load_pipeline_folder, load_unet
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.diffusion.sampling import make_student_scheduler
from naruto_add.export import single_file
from naruto_add.export.card_facts import CardFacts
from naruto_add.export.card_pictures import write_plot
from naruto_add.export.demo_examples import load_examples
from naruto_add.export.demo_template import Templates, read_templates
from naruto_add.export.latency import Clock, time_all
from naruto_add.export.model_card import student_about
from naruto_add.export.models import Exported, ExportModels, Figures
from naruto_add.export.modelspec import trigger_words
from naruto_add.export.onnx_formats import export_demo, export_onnx
from naruto_add.export.tiny_decoder import OFF, write_tiny_decoder
from naruto_add.export.torch_formats import export_diffusers, export_lora, export_single_files
from naruto_add.runtime.compute import DTYPES
from naruto_add.runtime.extras import require_onnx
from naruto_add.runtime.files import new_folder, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class ExportInputs:
    """The models, and what the cards and pages say about them. `lora_dir` and `demo_dir` are read for their formats."""

    teacher_dir: Path
    lora_dir: Path
    distilled_dir: Path
    dataset_dir: Path
    evaluate_metrics_path: Path
    add_metrics_path: Path
    sweep_path: Path
    demo_dir: Path


def export_student(
    params: Export,
    *,
    base: Base,
    sampling: Sampling,
    inputs: ExportInputs,
    out_dir: Path,
    metrics_path: Path,
    clock: Clock = time.perf_counter,
) -> None:
    """Write every format, read each back, compare it to the model, and write sizes, differences and latencies.

    Raises StageError, and leaves no folder, if one differs by more than its tolerance or cannot be written. `clock`
    measures the latencies; a benchmark on a machine that other programs use gives CPU time.
    """
    if "onnx" in params.formats:
        require_onnx()
    templates = read_templates(inputs.demo_dir) if "demo" in params.formats else None
    models = _load_models(params, base, sampling, inputs)
    with new_folder(out_dir) as folder:
        facts = _card_facts(models, inputs, has_plot=write_plot(folder, inputs.sweep_path))
        exported = dict(_write_formats(models, folder, inputs=inputs, templates=templates, facts=facts))
        figures = _with_latencies(models, exported, clock)
        if params.tiny_decoder != OFF:
            figures["tiny_decoder"] = write_tiny_decoder(
                models.student,
                folder / "tiny_decoder",
                source=params.tiny_decoder,
                num_steps=params.tiny_decoder_steps,
                dataset_dir=inputs.dataset_dir,
                seed=params.seed,
                dtype=DTYPES[params.precision],
            )
        write_json(metrics_path, _flat(figures))


def _load_models(params: Export, base: Base, sampling: Sampling, inputs: ExportInputs) -> ExportModels:
    teacher = load_pipeline_folder(inputs.teacher_dir, precision="fp32", caption_chunks=base.caption_chunks)
    move_to_cpu(*teacher.networks)
    student = replace(teacher, unet=load_unet(inputs.distilled_dir, precision="fp32", scheduler=teacher.scheduler))
    move_to_cpu(student.unet)
    return ExportModels(
        params=params,
        base=base,
        sampling=sampling,
        teacher=teacher,
        student=student,
        scheduler=make_student_scheduler(student.scheduler, sampling.student_scheduler, sampling.student_steps),
        prompts=[fill_template(base.prompt_template, prompt) for prompt in params.prompts],
    )


def _card_facts(models: ExportModels, inputs: ExportInputs, *, has_plot: bool) -> CardFacts:
    base, sampling, dataset = models.base, models.sampling, read_json(inputs.dataset_dir / "source.json")
    return CardFacts(
        base_model=base.model,
        source=dataset["source"],
        hub_dataset=dataset["hub_dataset"],
        method=read_json(inputs.add_metrics_path)["method"],
        timesteps=sampling.student_timesteps,
        prompts=models.prompts,
        trigger_words=trigger_words(base.prompt_template),
        resolution_px=base.resolution_px,
        guidance_scale=sampling.guidance_scale,
        caption_chunks=base.caption_chunks,
        precision=models.params.precision,
        metrics=read_json(inputs.evaluate_metrics_path),
        has_plot=has_plot,
        formats=models.params.formats,
        has_tiny_decoder=models.params.tiny_decoder != OFF,
        student_scheduler=sampling.student_scheduler,
        unfit_reason=single_file.unfit_reason(models.teacher.unet.config),
    )


def _write_formats(
    models: ExportModels, folder: Path, *, inputs: ExportInputs, templates: Templates | None, facts: CardFacts
) -> Iterator[tuple[str, Exported]]:
    """What was written, by the name of its figures; formats that are made from others come after them."""
    formats, template = models.params.formats, models.base.prompt_template
    yield "diffusers", export_diffusers(models, folder, facts)
    if "lora" in formats:
        train = load_split(inputs.dataset_dir, "train", prompt_template=template)
        captions = [example.prompt for example in train]
        yield "lora", export_lora(models, folder, lora_dir=inputs.lora_dir, captions=captions, card_facts=facts)
    if "single_file" in formats:
        if facts.unfit_reason:
            problem = f"no tool for Stable Diffusion 1.x loads this model: {facts.unfit_reason}"
            sys.stderr.write(f"export: single_file: {problem}\n")
        yield from export_single_files(models, folder).items()
    if "onnx" in formats:
        yield "onnx", export_onnx(models, folder, "onnx")
    if "onnx_int8" in formats:
        yield "onnx_int8", export_onnx(models, folder, "onnx_int8")
    if templates is not None:
        examples, about = load_examples(inputs.dataset_dir, prompt_template=template), student_about(facts)
        yield "demo", export_demo(models, folder, templates=templates, examples=examples, about=about)


def _with_latencies(models: ExportModels, exported: Mapping[str, Exported], clock: Clock) -> dict[str, Figures]:
    """The figures of all formats, with the latencies of them and of the models that they were made from."""
    bundles = {"student": models.student}
    if any(name in models.params.formats for name in ("lora", "single_file")):
        bundles["teacher"] = models.teacher
    jobs = {name: item.job for name, item in exported.items() if item.job and not item.runs_on_cpu}
    cpu_jobs = {name: item.job for name, item in exported.items() if item.job and item.runs_on_cpu}
    times = time_all(bundles, models.draw_by_torch, jobs=jobs, cpu_jobs=cpu_jobs, clock=clock)
    figures = {name: {**item.figures} for name, item in exported.items()}
    return {name: {**figures.get(name, {}), **times.get(name, {})} for name in [*figures, *times]}


def _flat(figures: Mapping[str, Figures]) -> Figures:
    return {f"{name}.{key}": value for name, values in figures.items() for key, value in values.items()}
