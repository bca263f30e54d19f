"""Pictures to look at, as grids whose PNG files say the prompts, seeds, steps and models that they were drawn with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from naruto_add.data.dataset import Example, load_split
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import encode_prompts
from naruto_add.diffusion.drawing import draw_pixels
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.evaluation.likeness import nearest, thumbnails
from naruto_add.evaluation.subjects import Models, Subject, at_steps, load_student, load_subjects, student_at_steps
from naruto_add.files import new_folder
from naruto_add.grid import CELL_PX, GridColumn, GridRow, make_grid, to_images
from naruto_add.params import Samples

NUM_SEEDS = 6
NUM_BETWEEN = 7
"""Pictures from one prompt to another, both ends included."""
NUM_NEIGHBOURS = 4
NAMES = {"student": "student before ADD"}
"""Of subjects that say too little by themselves."""


Pictures = list[Image.Image]


class _Artist:
    """Draws what the grids show, each picture once, however many grids show it."""

    def __init__(self) -> None:
        self._drawn: dict[str, Pictures] = {}

    def draw(self, subject: Subject, prompts: list[str], *, seed: int) -> Pictures:
        """Picture i starts from the noise of (seed, i) for every subject."""
        key = repr((subject.key(), prompts, seed))
        if key not in self._drawn:
            noise = initial_noise(subject.bundle, len(prompts), seed=seed)
            embeds = encode_prompts(subject.bundle, prompts)
            self._drawn[key] = _draw(subject, embeds, noise=noise, seed=seed, places=range(len(prompts)))
        return self._drawn[key]


@dataclass(frozen=True)
class _Shown:
    """A subject with the heading of its column."""

    column: GridColumn
    subject: Subject


def make_sample_grids(
    params: Samples, *, models: Models, prompt_template: str, dataset_dir: Path, out_dir: Path
) -> None:
    """Write `subjects.png` (all models), `held_out.png` (their pictures of held-out captions beside the real ones) and,
    of the distilled one, `seeds.png`, `steps.png` (with the teacher beside), `interpolation.png` (from prompt to prompt
    at one noise) and `neighbours.png` (the most similar training pictures).
    """
    shown = {name: _shown(name, subject) for name, subject in load_subjects(models).items()}
    everyone, distilled = list(shown.values()), shown["distilled"]
    fewer = [student_at_steps(distilled.subject, models.sampling, number) for number in params.steps]
    steps = [*(_shown("distilled", subject) for subject in fewer), shown["teacher"]]
    held_out = load_split(dataset_dir, "test")[: params.num_held_out]
    prompts = [fill_template(prompt_template, prompt) for prompt in params.prompts]
    held_out_prompts = [fill_template(prompt_template, example.caption) for example in held_out]
    ends = [fill_template(prompt_template, prompt) for prompt in (params.interpolate_from, params.interpolate_to)]
    artist, train = _Artist(), load_split(dataset_dir, "train")
    with new_folder(out_dir) as folder:
        _subjects_grid(artist, everyone, params, prompts, folder / "subjects.png")
        _held_out_grid(artist, everyone, params, held_out, held_out_prompts, folder / "held_out.png")
        _seeds_grid(artist, distilled, params, prompts, folder / "seeds.png")
        _subjects_grid(artist, steps, params, prompts, folder / "steps.png")
        _interpolation_grid(distilled, params, ends, folder / "interpolation.png")
        _neighbours_grid(artist, distilled, params, prompts, train, folder / "neighbours.png")


def make_ablation_grid(
    params: Samples,
    *,
    models: Models,
    others: Mapping[str, Models],
    prompt_template: str,
    path: Path,
) -> None:
    """Write one grid of the same prompts and noise: the teacher at its own and at the student's number of steps, the
    student before ADD, the distilled student at `params.steps`, and the distilled student of each of the `others`.
    """
    subjects = load_subjects(models)
    teacher, distilled = subjects["teacher"], subjects["distilled"]
    shown = [
        _shown("teacher", teacher),
        _shown("teacher", at_steps(teacher, models.num_student_steps)),
        _shown("student", subjects["student"]),
        *(_shown("distilled", student_at_steps(distilled, models.sampling, number)) for number in params.steps),
        *(_shown(name, load_student(item, teacher.bundle, item.distilled_dir)) for name, item in others.items()),
    ]
    prompts = [fill_template(prompt_template, prompt) for prompt in params.prompts]
    _subjects_grid(_Artist(), shown, params, prompts, path)


def _shown(name: str, subject: Subject) -> _Shown:
    number = subject.sampler.num_inference_steps
    return _Shown(GridColumn(NAMES.get(name, name), "1 step" if number == 1 else f"{number} steps"), subject)


def _subjects_grid(artist: _Artist, shown: Sequence[_Shown], params: Samples, prompts: list[str], path: Path) -> None:
    drawn = [artist.draw(item.subject, prompts, seed=params.seed) for item in shown]
    facts = _facts(shown, prompts, [params.seed])
    _make(_rows(params.prompts, drawn), [item.column for item in shown], path, facts)


def _held_out_grid(
    artist: _Artist, shown: Sequence[_Shown], params: Samples, examples: list[Example], prompts: list[str], path: Path
) -> None:
    """The real pictures first: what their captions meant."""
    real = [_opened(example) for example in examples]
    drawn = [artist.draw(item.subject, prompts, seed=params.seed) for item in shown]
    rows = _rows([example.caption for example in examples], [real, *drawn])
    columns = [GridColumn("real", "held out"), *(item.column for item in shown)]
    _make(rows, columns, path, _facts(shown, prompts, [params.seed]))


def _seeds_grid(artist: _Artist, shown: _Shown, params: Samples, prompts: list[str], path: Path) -> None:
    seeds = [params.seed + offset for offset in range(NUM_SEEDS)]
    drawn = [artist.draw(shown.subject, prompts, seed=seed) for seed in seeds]
    columns = [GridColumn(f"seed {seed}", f"{shown.column.name}, {shown.column.note}") for seed in seeds]
    _make(_rows(params.prompts, drawn), columns, path, _facts([shown], prompts, seeds))


def _interpolation_grid(shown: _Shown, params: Samples, ends: list[str], path: Path) -> None:
    """A row per seed: the text embeddings are mixed linearly, the noise stays."""
    shares = torch.linspace(0, 1, NUM_BETWEEN).tolist()
    start, end = encode_prompts(shown.subject.bundle, ends)
    mixed = torch.stack([torch.lerp(start, end, share) for share in shares])
    seeds = [params.seed, params.seed + 1]
    caption = f"{params.interpolate_from}, to {params.interpolate_to}"
    rows = []
    for seed in seeds:
        noise = initial_noise(shown.subject.bundle, 1, seed=seed).expand(NUM_BETWEEN, -1, -1, -1)
        drawn = _draw(shown.subject, mixed, noise=noise, seed=seed, places=[0] * NUM_BETWEEN)
        rows.append(GridRow(caption, drawn))
    columns = [GridColumn(f"{100 * share:.0f}%", shown.column.note) for share in shares]
    _make(rows, columns, path, _facts([shown], ends, seeds))


def _neighbours_grid(
    artist: _Artist, shown: _Shown, params: Samples, prompts: list[str], train: list[Example], path: Path
) -> None:
    drawn = artist.draw(shown.subject, prompts, seed=params.seed)
    known = thumbnails(np.asarray(_opened(example)) for example in train)
    places = nearest(thumbnails(np.asarray(image) for image in drawn), known, num=NUM_NEIGHBOURS)
    rows = [
        GridRow(caption, [image, *(_opened(train[place]) for place in found)])
        for caption, image, found in zip(params.prompts, drawn, places, strict=True)
    ]
    ranks = [GridColumn(f"training {rank + 1}", "by likeness") for rank in range(places.shape[1])]
    _make(rows, [shown.column, *ranks], path, _facts([shown], prompts, [params.seed]))


def _rows(captions: Sequence[str], drawn: Sequence[Sequence[Image.Image]]) -> list[GridRow]:
    """A row for every caption, of what every column drew for it."""
    return [GridRow(caption, images) for caption, images in zip(captions, zip(*drawn, strict=True), strict=True)]


def _facts(shown: Sequence[_Shown], prompts: list[str], seeds: list[int]) -> dict[str, Any]:
    """What a grid's file says beside its captions and columns."""
    steps = [item.subject.sampler.num_inference_steps for item in shown]
    return {"prompts": prompts, "seeds": seeds, "models": [item.column.name for item in shown], "steps": steps}


def _make(rows: list[GridRow], columns: list[GridColumn], path: Path, metadata: dict[str, Any]) -> None:
    make_grid(rows, columns=columns, cell_px=CELL_PX, path=path, metadata=metadata)


def _draw(
    subject: Subject,
    embeds: Float[Tensor, "batch tokens width"],
    *,
    noise: Float[Tensor, "batch c h w"],
    seed: int,
    places: Sequence[int],
) -> Pictures:
    pixels = draw_pixels(subject.bundle, subject.sampler, prompt_embeds=embeds, noise=noise, seed=seed, places=places)
    return to_images(pixels)


def _opened(example: Example) -> Image.Image:
    with Image.open(example.image_path) as image:
        return image.convert("RGB")
