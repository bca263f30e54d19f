"""The stage `export`: the distilled student and the teacher in the formats of `export.formats`.

Everything is in one folder. diffusers reads only the sub-folders that model_index.json names, so its files are at the
top and the others are in `lora/`, `single_file/`, `onnx/` and `tiny_decoder/`. The demo page is one file, `demo.html`.

Networks that are not in use are kept in CPU memory, so that one pipeline at a time is on the GPU.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from naruto_add.comparison.draw import draw_pixels
from naruto_add.config.schema import Base, Export, Sampling
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, load_pipeline_folder, load_unet
from naruto_add.diffusion.placement import move_to_cpu, on_device
from naruto_add.diffusion.sampling import Sampler, dpm_solver_sampler, initial_noise, make_student_scheduler
from naruto_add.export import lora, onnx_files, single_file
from naruto_add.export.card_pictures import PLOT, write_pictures, write_plot
from naruto_add.export.demo_examples import draw_examples, load_examples
from naruto_add.export.demo_page import FILE as DEMO_FILE
from naruto_add.export.demo_page import (
    DemoFacts,
    fits_in_page,
    step_table,
    unpack_demo_page,
    write_demo_page,
    write_page_beside,
)
from naruto_add.export.demo_template import Templates, read_templates
from naruto_add.export.diffusers_folder import IMAGE_TOLERANCE, write_diffusers_folder
from naruto_add.export.latency import Draw, Job, latencies_ms
from naruto_add.export.model_card import CardFacts, lora_card, student_about
from naruto_add.export.onnx_int8 import write_int8
from naruto_add.export.original_layout import Numbering
from naruto_add.export.reload import draw_by_diffusers, load_folder, load_lora, load_single_file
from naruto_add.export.tiny_decoder import OFF, write_tiny_decoder
from naruto_add.generate.onnx_pipeline import UNET, OnnxPipeline
from naruto_add.generate.settings import SamplingSettings
from naruto_add.imaging.pixels import to_uint8
from naruto_add.runtime.compute import DTYPES
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_folder, read_json, write_json
from naruto_add.runtime.onnx_packages import require_onnx

MIB = 2**20
EXAMPLE_TEACHER_STEPS = 25
"""DPM-Solver++ steps of the teacher's example pictures, in the model cards and on the demo page."""
HALF_TOLERANCE = 1e-3
"""Largest allowed difference of a weight stored in fp16; of weights above 1, relative to them."""

Figures = dict[str, float | int | str]


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
    params: Export, *, base: Base, sampling: Sampling, inputs: ExportInputs, out_dir: Path, metrics_path: Path
) -> None:
    """Write every format, read each back, compare it to the model, and write sizes, differences and latencies.

    Raises StageError, and leaves no folder, if one differs by more than its tolerance or cannot be written.
    """
    if "onnx" in params.formats:
        require_onnx()
    templates = read_templates(inputs.demo_dir) if "demo" in params.formats else None
    teacher = load_pipeline_folder(inputs.teacher_dir, precision="fp32", caption_chunks=base.caption_chunks)
    move_to_cpu(*teacher.networks)
    student = replace(teacher, unet=load_unet(inputs.distilled_dir, precision="fp32", scheduler=teacher.scheduler))
    move_to_cpu(student.unet)
    scheduler = make_student_scheduler(student.scheduler, sampling.student_scheduler, sampling.student_steps)
    prompts = [fill_template(base.prompt_template, prompt) for prompt in params.prompts]
    dataset = read_json(inputs.dataset_dir / "source.json")
    with new_folder(out_dir) as folder:
        facts = CardFacts(
            base_model=base.model,
            source=dataset["source"],
            hub_dataset=dataset["hub_dataset"],
            method=read_json(inputs.add_metrics_path)["method"],
            timesteps=sampling.student_timesteps,
            prompts=prompts,
            trigger_words=lora.trigger_words(base.prompt_template),
            resolution_px=base.resolution_px,
            guidance_scale=sampling.guidance_scale,
            caption_chunks=base.caption_chunks,
            precision=params.precision,
            metrics=read_json(inputs.evaluate_metrics_path),
            has_plot=write_plot(folder, inputs.sweep_path),
            formats=params.formats,
            student_scheduler=sampling.student_scheduler,
            unfit_reason=single_file.unfit_reason(teacher.unet.config),
        )
        run = _Run(params, base, sampling, teacher, student, scheduler, prompts, folder)
        run.export_diffusers(facts)
        if "lora" in params.formats:
            train = load_split(inputs.dataset_dir, "train", prompt_template=base.prompt_template)
            run.export_lora(inputs.lora_dir, [example.prompt for example in train], facts)
        if "single_file" in params.formats:
            run.export_single_files()
        if "onnx" in params.formats:
            run.export_onnx("onnx")
        if "onnx_int8" in params.formats:
            run.export_onnx("onnx_int8")
        if templates is not None:
            examples = load_examples(inputs.dataset_dir, prompt_template=base.prompt_template)
            run.export_demo(templates, examples, facts)
        run.time_formats()
        if params.tiny_decoder != OFF:
            run.figures["tiny_decoder"] = write_tiny_decoder(
                student,
                folder / "tiny_decoder",
                source=params.tiny_decoder,
                num_steps=params.tiny_decoder_steps,
                dataset_dir=inputs.dataset_dir,
                seed=params.seed,
                dtype=DTYPES[params.precision],
            )
        write_json(metrics_path, _flat(run.figures))


@dataclass
class _Run:
    """One export: the models, the folder, the figures by format, and what draws with each format."""

    params: Export
    base: Base
    sampling: Sampling
    teacher: ModelBundle
    student: ModelBundle
    scheduler: Any
    prompts: list[str]
    folder: Path
    figures: dict[str, Figures] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    """The jobs that draw on torch's device."""
    cpu_jobs: dict[str, Job] = field(default_factory=dict)

    def export_diffusers(self, facts: CardFacts) -> None:
        settings = SamplingSettings(
            num_inference_steps=self.sampling.student_steps,
            prompt_template=self.base.prompt_template,
            caption_chunks=self.base.caption_chunks,
        )
        parity = write_diffusers_folder(
            self.student,
            self.folder,
            scheduler=self.scheduler,
            facts=facts,
            settings=settings,
            prompts=self.prompts,
            seed=self.params.seed,
        )
        self.figures["diffusers"] = {
            "noise_pred_max_abs_diff": parity.noise_pred.largest,
            "images_max_abs_diff": parity.images.largest,
            "size_mib": _size_mib(self.folder),
            "unet_num_parameters": self.student.unet.num_parameters(),
        }
        self.jobs["diffusers"] = self._diffusers_job(load_folder(self.folder))
        student = f"student, {self.sampling.student_steps} steps"
        write_pictures(
            self.folder,
            self.prompts,
            {student: self._student_pictures(), f"teacher, {EXAMPLE_TEACHER_STEPS} steps": self._teacher_pictures},
        )

    def export_lora(self, lora_dir: Path, captions: list[str], card_facts: CardFacts) -> None:
        facts = lora.LoraFacts(
            base_model=self.base.model,
            prediction_type=self.teacher.scheduler.config.prediction_type,
            prompt_template=self.base.prompt_template,
            caption_chunks=self.base.caption_chunks,
            resolution_px=self.base.resolution_px,
            captions=captions,
        )
        precision = self.params.precision
        source, target = lora_dir / lora.DIFFUSERS_FILE, self.folder / "lora" / lora.FILE
        lora.write_kohya_lora(source, target, facts=facts, dtype=DTYPES[precision])
        difference = lora.largest_difference(source, target)
        if precision == "fp32":
            _check_weights("lora", difference, 0.0, remedy="leave lora out")
        else:
            _check_weights("lora", difference, HALF_TOLERANCE, remedy="leave lora out, or use export.precision fp32")
        pipeline = load_lora(target, self.base)
        self.figures["lora"] = {
            "weights_max_diff": difference,
            "images_max_abs_diff": self._check_pictures("lora", pipeline, self.teacher, IMAGE_TOLERANCE[precision]),
            "size_mib": _size_mib(target.parent),
        }
        self.jobs["lora"] = self._diffusers_job(pipeline)
        write_pictures(target.parent, self.prompts, {"base model with the LoRA": self._teacher_pictures})
        if card_facts.has_plot:
            shutil.copyfile(self.folder / PLOT, target.parent / PLOT)
        (target.parent / "README.md").write_text(lora_card(card_facts, lora.FILE), encoding="utf-8")

    def export_single_files(self) -> None:
        """Write the files and compare their weights; diffusers draws with all but the one numbered with gaps."""
        folder = self.folder / "single_file"
        if reason := single_file.unfit_reason(self.teacher.unet.config):
            sys.stderr.write(f"export: single_file: no tool for Stable Diffusion 1.x loads this model: {reason}\n")
        single_file.write_single_files(
            self.teacher,
            self.student,
            folder,
            prompt_template=self.base.prompt_template,
            num_steps=self.sampling.student_steps,
            student_scheduler=self.sampling.student_scheduler,
        )
        self._check_single_file("teacher", folder / single_file.TEACHER, self.teacher)
        self._check_single_file("student", folder / single_file.STUDENT, self.student)
        gaps = folder / single_file.STUDENT_GAPS
        if gaps.exists():
            self._check_single_file("student_gaps", gaps, self.student, numbering="gaps")

    def _check_single_file(
        self, role: str, path: Path, bundle: ModelBundle, *, numbering: Numbering = "contiguous"
    ) -> None:
        difference = single_file.largest_difference(bundle, path, numbering)
        remedy = "leave single_file out: whatever export.precision is, its weights are fp16"
        _check_weights("single_file", difference, HALF_TOLERANCE, remedy=remedy)
        name = f"single_file.{role}"
        self.figures[name] = {"size_mib": _size_mib(path), "weights_max_diff": difference}
        if numbering == "contiguous":
            pipeline = load_single_file(path, bundle)
            tolerance = IMAGE_TOLERANCE["fp16"]
            self.figures[name]["images_max_abs_diff"] = self._check_pictures("single_file", pipeline, bundle, tolerance)
            self.jobs[name] = self._diffusers_job(pipeline)

    def export_onnx(self, name: Literal["onnx", "onnx_int8"]) -> None:
        folder = self.folder / name
        if name == "onnx":
            onnx_files.write_onnx(
                self.student,
                folder,
                scheduler=self.scheduler,
                num_steps=self.sampling.student_steps,
                prompt_template=self.base.prompt_template,
            )
        else:
            write_int8(self.folder / "onnx", folder)
        pipeline = OnnxPipeline(folder, num_threads=torch.get_num_threads())
        self.figures[name] = {**self._check_onnx(name, pipeline), "size_mib": _size_mib(folder)}
        self.cpu_jobs[name] = Job(lambda batch: pipeline.draw(self._batch(batch), self._noise(batch).cpu().numpy()))

    def export_demo(self, templates: Templates, examples: list[Example], card_facts: CardFacts) -> None:
        """Write the page, and compare the networks that are in it; only the tests draw with it in a browser.

        Networks that a page cannot hold stay beside it, in the folders that have been compared already.
        """
        path, onnx_dir = self.folder / DEMO_FILE, self.folder / "onnx"
        teacher_sampler = dpm_solver_sampler(self.teacher, EXAMPLE_TEACHER_STEPS, self.sampling.guidance_scale)
        facts = DemoFacts(
            title=f"Draw in {self.sampling.student_steps} steps",
            model=f"naruto-add student of {self.base.model}",
            about=student_about(card_facts),
            examples=draw_examples(self.teacher, teacher_sampler, examples),
            teacher_steps=EXAMPLE_TEACHER_STEPS,
            trained_timesteps=self.sampling.student_timesteps,
            steps=step_table(self.student.scheduler, self.sampling.student_steps),
        )
        if not fits_in_page(onnx_dir):
            onnx_dirs = [self.folder / name for name in ("onnx", "onnx_int8") if name in self.params.formats]
            if "onnx_int8" not in self.params.formats and onnx_files.has_separate_weights(onnx_dir / UNET):
                sys.stderr.write(
                    "export: demo: browsers cannot read the U-Net in onnx/, which has more than 2 GiB; "
                    "add onnx_int8 to export.formats\n"
                )
            write_page_beside(path, template=templates.beside, onnx_dirs=onnx_dirs, facts=facts)
            self.figures["demo"] = {"size_mib": _size_mib(path)}
            return
        write_demo_page(path, template=templates.inside, onnx_dir=onnx_dir, facts=facts)
        with tempfile.TemporaryDirectory() as folder:
            unpack_demo_page(path, Path(folder))
            pipeline = OnnxPipeline(Path(folder), num_threads=torch.get_num_threads())
            self.figures["demo"] = {**self._check_onnx("demo", pipeline), "size_mib": _size_mib(path)}

    def _check_onnx(self, name: onnx_files.Format, pipeline: OnnxPipeline) -> Figures:
        parity = onnx_files.check_onnx(
            self.student,
            pipeline,
            scheduler=self.scheduler,
            timesteps=self.sampling.student_timesteps,
            prompts=self.prompts,
            seed=self.params.seed,
            name=name,
        )
        return {"noise_pred_max_abs_diff": parity.noise_pred, "images_mean_abs_diff_of_255": parity.images}

    def time_formats(self) -> None:
        """Time all formats and the models that they were made from."""
        bundles = {"student": self.student}
        if any(name in self.params.formats for name in ("lora", "single_file")):
            bundles["teacher"] = self.teacher
        for name, times in time_all(bundles, self._draw_by_torch, jobs=self.jobs, cpu_jobs=self.cpu_jobs).items():
            self.figures[name] = {**self.figures.get(name, {}), **times}

    def _check_pictures(self, name: str, pipeline: Any, bundle: ModelBundle, allowed: float) -> float:
        """Largest difference of the pictures that both draw for `export.prompts`."""
        noise, num_steps = self._noise(len(self.prompts)), self.sampling.student_steps
        options: dict[str, Any] = {
            "scheduler": self.scheduler,
            "num_steps": num_steps,
            "num_chunks": self.base.caption_chunks,
            "seed": self.params.seed,
        }
        theirs = draw_by_diffusers(pipeline, self.prompts, noise, **options)
        reference = bundle.pipeline()
        reference.set_progress_bar_config(disable=True)
        ours = draw_by_diffusers(reference, self.prompts, noise, **options)
        found = (ours - theirs).abs().max().item()
        if not found <= allowed:
            raise StageError(
                f"export.formats: {name}: diffusers draws other pictures with it than with the model, by up to "
                f"{found:.2g} of 1, more than {allowed:.2g}; leave {name} out, or install the locked version of "
                "diffusers (`make install`)"
            )
        return found

    def _student_pictures(self) -> list[Image.Image]:
        """One picture for each of `export.prompts`."""
        sampler = Sampler(self.scheduler, self.sampling.student_steps, guidance_scale=1.0)
        return self._pictures(self.student, sampler)

    @cached_property
    def _teacher_pictures(self) -> list[Image.Image]:
        """The teacher's, from the same noise."""
        return self._pictures(
            self.teacher, dpm_solver_sampler(self.teacher, EXAMPLE_TEACHER_STEPS, self.sampling.guidance_scale)
        )

    def _pictures(self, bundle: ModelBundle, sampler: Sampler) -> list[Image.Image]:
        count, seed = len(self.prompts), self.params.seed
        pixels = draw_pixels(
            bundle,
            sampler,
            prompt_embeds=encode_prompts(bundle, self.prompts),
            noise=self._noise(count),
            seed=seed,
            indices=range(count),
        )
        return [Image.fromarray(image) for image in to_uint8(pixels)]

    def _diffusers_job(self, pipeline: Any) -> Job:
        def draw(batch: int) -> object:
            return draw_by_diffusers(
                pipeline,
                self._batch(batch),
                self._noise(batch),
                scheduler=self.scheduler,
                num_steps=self.sampling.student_steps,
                num_chunks=self.base.caption_chunks,
                seed=self.params.seed,
            ).cpu()

        networks = pipeline.text_encoder, pipeline.unet, pipeline.vae
        return Job(draw, partial(on_device, self.student.device, *networks))

    def _draw_by_torch(self, bundle: ModelBundle) -> Draw:
        def draw(batch: int) -> object:
            noise = initial_noise(bundle, batch, seed=self.params.seed)
            sampler = Sampler(self.scheduler, self.sampling.student_steps, guidance_scale=1.0)
            with torch.inference_mode():
                embeds = encode_prompts(bundle, self._batch(batch))
                return draw_pixels(
                    bundle, sampler, prompt_embeds=embeds, noise=noise, seed=self.params.seed, indices=range(batch)
                ).cpu()

        return draw

    def _batch(self, batch: int) -> list[str]:
        return self.prompts[:1] * batch

    def _noise(self, batch: int) -> Tensor:
        return initial_noise(self.student, batch, seed=self.params.seed)


def time_all(
    bundles: Mapping[str, ModelBundle],
    draw_by: Callable[[ModelBundle], Draw],
    *,
    jobs: Mapping[str, Job],
    cpu_jobs: Mapping[str, Job],
) -> dict[str, dict[str, float]]:
    """Latencies of the bundles, one of which is the `student`, of `jobs` on the same device, and of `cpu_jobs`.

    If that device is a GPU, `cpu_jobs` are timed apart, together with the student on the CPU, as `student_cpu`.
    Afterwards every network is where it was before.
    """
    timed = {
        name: Job(draw_by(bundle), partial(on_device, bundle.device, *bundle.networks))
        for name, bundle in bundles.items()
    }
    student = bundles["student"]
    if student.device.type == "cpu" or not cpu_jobs:
        return latencies_ms({"student": timed.pop("student"), **jobs, **timed, **cpu_jobs})
    cpu = torch.device("cpu")
    on_cpu = replace(student, device=cpu)
    slow = {"student_cpu": Job(draw_by(on_cpu), partial(on_device, cpu, *on_cpu.networks)), **cpu_jobs}
    return latencies_ms({**timed, **jobs}) | latencies_ms(slow)


def _check_weights(name: str, found: float, allowed: float, *, remedy: str) -> None:
    if not found <= allowed:
        raise StageError(
            f"export.formats: {name}: its weights differ from the model's by {found:.2g}, more than {allowed:.2g}; "
            f"{remedy}"
        )


def _size_mib(path: Path) -> float:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files) / MIB


def _flat(figures: Mapping[str, Figures]) -> Figures:
    return {f"{name}.{key}": value for name, values in figures.items() for key, value in values.items()}
