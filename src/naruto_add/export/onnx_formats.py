"""The formats that draw without torch: ONNX networks in fp32 and with int8 weights, and the page for a browser."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from naruto_add.data.dataset import Example
from naruto_add.export import onnx_files
from naruto_add.export.demo_examples import draw_examples
from naruto_add.export.demo_page import FILE as DEMO_FILE
from naruto_add.export.demo_page import (
    DemoFacts,
    fits_in_page,
    step_table,
    unpack_demo_page,
    write_demo_page,
    write_page_beside,
)
from naruto_add.export.demo_template import Templates
from naruto_add.export.latency import Job
from naruto_add.export.models import EXAMPLE_TEACHER_STEPS, Exported, ExportModels, Figures, size_mib
from naruto_add.export.onnx_int8 import write_int8
from naruto_add.generate.onnx_pipeline import UNET, OnnxPipeline


def export_onnx(models: ExportModels, folder: Path, name: Literal["onnx", "onnx_int8"]) -> Exported:
    """Write the networks in fp32, or from these with int8 weights, in the sub-folder of this name."""
    target = folder / name
    if name == "onnx":
        onnx_files.write_onnx(
            models.student,
            target,
            scheduler=models.scheduler,
            num_steps=models.sampling.student_steps,
            prompt_template=models.base.prompt_template,
        )
    else:
        write_int8(folder / "onnx", target)
    pipeline = OnnxPipeline(target, num_threads=torch.get_num_threads())
    return Exported(
        figures={**_parity(models, name, pipeline), "size_mib": size_mib(target)},
        job=Job(lambda batch: pipeline.draw(models.batch(batch), models.noise(batch).cpu().numpy())),
        runs_on_cpu=True,
    )


def export_demo(
    models: ExportModels, folder: Path, *, templates: Templates, examples: Sequence[Example], about: list[str]
) -> Exported:
    """Write the page, and compare the networks that are in it; only the tests draw with it in a browser.

    Networks that a page cannot hold stay beside it, in the folders that have been compared already.
    """
    path, onnx_dir = folder / DEMO_FILE, folder / "onnx"
    facts = DemoFacts(
        title=f"Draw in {models.sampling.student_steps} steps",
        model=f"naruto-add student of {models.base.model}",
        about=about,
        examples=draw_examples(models.teacher, models.teacher_sampler, examples),
        teacher_steps=EXAMPLE_TEACHER_STEPS,
        trained_timesteps=models.sampling.student_timesteps,
        steps=step_table(models.student.scheduler, models.sampling.student_steps),
    )
    if not fits_in_page(onnx_dir):
        formats = models.params.formats
        if "onnx_int8" not in formats and onnx_files.has_separate_weights(onnx_dir / UNET):
            sys.stderr.write(
                "export: demo: browsers cannot read the U-Net in onnx/, which has more than 2 GiB; "
                "add onnx_int8 to export.formats\n"
            )
        onnx_dirs = [folder / name for name in ("onnx", "onnx_int8") if name in formats]
        write_page_beside(path, template=templates.beside, onnx_dirs=onnx_dirs, facts=facts)
        return Exported(figures={"size_mib": size_mib(path)})
    write_demo_page(path, template=templates.inside, onnx_dir=onnx_dir, facts=facts)
    with tempfile.TemporaryDirectory() as unpacked:
        unpack_demo_page(path, Path(unpacked))
        pipeline = OnnxPipeline(Path(unpacked), num_threads=torch.get_num_threads())
        return Exported(figures={**_parity(models, "demo", pipeline), "size_mib": size_mib(path)})


def _parity(models: ExportModels, name: onnx_files.Format, pipeline: OnnxPipeline) -> Figures:
    parity = onnx_files.check_onnx(
        models.student,
        pipeline,
        scheduler=models.scheduler,
        timesteps=models.sampling.student_timesteps,
        prompts=models.prompts,
        seed=models.params.seed,
        name=name,
    )
    return {"noise_pred_max_abs_diff": parity.noise_pred, "images_mean_abs_diff_of_255": parity.images}
