"""Pictures to look at, as grids whose PNG files say the prompts, seeds, steps and models that they were drawn with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from naruto_add.compute import step_generator
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_prompts,
    load_bundle,
    load_pipeline_folder,
    load_unet,
)
from naruto_add.diffusion.sampling import Sampler, initial_noise, sample_latents, student_sampler, teacher_sampler
from naruto_add.files import new_folder
from naruto_add.grid import CELL_PX, GridColumn, GridRow, make_grid, to_images
from naruto_add.params import Base, Samples, Sampling

NUM_SEEDS = 6
NUM_BETWEEN = 7
"""Pictures from one prompt to another, both ends included."""
NUM_NEIGHBOURS = 4
THUMBNAIL_PX = 16
"""Side at which pictures are compared with all training pictures."""


@dataclass(frozen=True)
class _Subject:
    column: GridColumn
    bundle: ModelBundle
    unet: UNet2DConditionModel
    sampler: Sampler


def make_sample_grids(
    params: Samples,
    *,
    base: Base,
    sampling: Sampling,
    prompt_template: str,
    num_student_steps: int,
    dataset_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    distilled_dir: Path,
    out_dir: Path,
) -> None:
    """Write `subjects.png` (all models) and, of the distilled one, `seeds.png`, `steps.png` (with the teacher beside),
    `interpolation.png` (from prompt to prompt at one noise) and `neighbours.png` (the most similar training pictures).
    """
    subjects = _subjects(base, sampling, num_student_steps, teacher_dir, student_dir, distilled_dir)
    teacher, distilled = subjects[1], subjects[-1]
    prompts = [fill_template(prompt_template, prompt) for prompt in params.prompts]
    ends = [fill_template(prompt_template, prompt) for prompt in (params.interpolate_from, params.interpolate_to)]
    steps = [*(_at_steps(distilled, sampling, number) for number in params.steps), teacher]
    with new_folder(out_dir) as folder:
        _subjects_grid(subjects, params, prompts, folder / "subjects.png")
        _seeds_grid(distilled, params, prompts, folder / "seeds.png")
        _subjects_grid(steps, params, prompts, folder / "steps.png")
        _interpolation_grid(distilled, params, ends, folder / "interpolation.png")
        _neighbours_grid(distilled, params, prompts, load_split(dataset_dir, "train"), folder / "neighbours.png")


def nearest_pictures(images: Sequence[Image.Image], others: Sequence[Image.Image], *, num: int) -> NDArray[np.int64]:
    """For each picture, the places of the `num` others whose thumbnails differ least, the most similar first."""
    drawn, known = _thumbnails(images), _thumbnails(others)
    squares = (drawn**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * drawn @ known.T
    nearest: NDArray[np.int64] = np.argsort(squares, axis=1, kind="stable")[:, :num]
    return nearest


def _subjects(
    base: Base, sampling: Sampling, num_student_steps: int, teacher_dir: Path, student_dir: Path, distilled_dir: Path
) -> list[_Subject]:
    before, teacher = load_bundle(base), load_pipeline_folder(teacher_dir, precision=base.precision)
    slow = GridColumn("base", f"{sampling.teacher_steps} steps")
    few_steps = student_sampler(teacher, sampling, num_student_steps)
    students = [("student before ADD", student_dir), ("distilled", distilled_dir)]
    unets = {name: load_unet(path, precision=base.precision) for name, path in students}
    fast = f"{num_student_steps} steps"
    return [
        _Subject(slow, before, before.unet, teacher_sampler(before, sampling)),
        _Subject(GridColumn("teacher", slow.note), teacher, teacher.unet, teacher_sampler(teacher, sampling)),
        *(_Subject(GridColumn(name, fast), teacher, unet, few_steps) for name, unet in unets.items()),
    ]


def _at_steps(student: _Subject, sampling: Sampling, num_steps: int) -> _Subject:
    note = "1 step" if num_steps == 1 else f"{num_steps} steps"
    sampler = student_sampler(student.bundle, sampling, num_steps)
    return replace(student, column=GridColumn(student.column.name, note), sampler=sampler)


def _subjects_grid(subjects: Sequence[_Subject], params: Samples, prompts: list[str], path: Path) -> None:
    drawn = [_draw_subject(subject, prompts, seed=params.seed) for subject in subjects]
    facts = _facts(subjects, prompts, [params.seed])
    _make(_rows(params.prompts, drawn), [subject.column for subject in subjects], path, facts)


def _seeds_grid(subject: _Subject, params: Samples, prompts: list[str], path: Path) -> None:
    seeds = [params.seed + offset for offset in range(NUM_SEEDS)]
    drawn = [_draw_subject(subject, prompts, seed=seed) for seed in seeds]
    columns = [GridColumn(f"seed {seed}", f"{subject.column.name}, {subject.column.note}") for seed in seeds]
    _make(_rows(params.prompts, drawn), columns, path, _facts([subject], prompts, seeds))


def _interpolation_grid(subject: _Subject, params: Samples, ends: list[str], path: Path) -> None:
    """A row per seed: the text embeddings are mixed linearly, the noise stays."""
    shares = torch.linspace(0, 1, NUM_BETWEEN).tolist()
    start, end = encode_prompts(subject.bundle, ends)
    mixed = torch.stack([torch.lerp(start, end, share) for share in shares])
    seeds = [params.seed, params.seed + 1]
    caption = f"{params.interpolate_from}, to {params.interpolate_to}"
    rows = []
    for seed in seeds:
        noise = initial_noise(subject.bundle, 1, seed=seed).expand(NUM_BETWEEN, -1, -1, -1)
        rows.append(GridRow(caption, _draw(subject, mixed, noise=noise, seed=seed)))
    columns = [GridColumn(f"{100 * share:.0f}%", subject.column.note) for share in shares]
    _make(rows, columns, path, _facts([subject], ends, seeds))


def _neighbours_grid(subject: _Subject, params: Samples, prompts: list[str], train: list[Example], path: Path) -> None:
    drawn = _draw_subject(subject, prompts, seed=params.seed)
    places = nearest_pictures(drawn, [_opened(example) for example in train], num=NUM_NEIGHBOURS)
    rows = [
        GridRow(caption, [image, *(_opened(train[place]) for place in nearest)])
        for caption, image, nearest in zip(params.prompts, drawn, places, strict=True)
    ]
    found = [GridColumn(f"training {rank + 1}", "by likeness") for rank in range(places.shape[1])]
    _make(rows, [subject.column, *found], path, _facts([subject], prompts, [params.seed]))


def _rows(captions: Sequence[str], drawn: Sequence[Sequence[Image.Image]]) -> list[GridRow]:
    """A row for every caption, of what every column drew for it."""
    return [GridRow(caption, images) for caption, images in zip(captions, zip(*drawn, strict=True), strict=True)]


def _facts(subjects: Sequence[_Subject], prompts: list[str], seeds: list[int]) -> dict[str, Any]:
    """What a grid's file says beside its captions and columns."""
    models = [subject.column.name for subject in subjects]
    steps = [subject.sampler.num_inference_steps for subject in subjects]
    return {"prompts": prompts, "seeds": seeds, "models": models, "steps": steps}


def _make(rows: list[GridRow], columns: list[GridColumn], path: Path, metadata: dict[str, Any]) -> None:
    make_grid(rows, columns=columns, cell_px=CELL_PX, path=path, metadata=metadata)


def _draw_subject(subject: _Subject, prompts: list[str], *, seed: int) -> list[Image.Image]:
    """Picture i starts from the noise of (seed, i) for every subject."""
    noise = initial_noise(subject.bundle, len(prompts), seed=seed)
    return _draw(subject, encode_prompts(subject.bundle, prompts), noise=noise, seed=seed)


def _draw(
    subject: _Subject, embeds: Float[Tensor, "batch tokens width"], *, noise: Float[Tensor, "batch c h w"], seed: int
) -> list[Image.Image]:
    bundle = subject.bundle
    latents = sample_latents(
        subject.unet,
        noise=noise,
        prompt_embeds=embeds,
        negative_embeds=encode_prompts(bundle, [""]),
        sampler=subject.sampler,
        generator=step_generator(seed, 0),
    )
    return to_images(decode_latents(bundle, latents))


def _opened(example: Example) -> Image.Image:
    with Image.open(example.image_path) as image:
        return image.convert("RGB")


def _thumbnails(images: Sequence[Image.Image]) -> NDArray[np.float64]:
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = [np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)) for image in images]
    return np.stack(small).reshape(len(small), -1).astype(np.float64)
