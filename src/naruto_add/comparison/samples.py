"""Sample grids: PNG files whose metadata holds the prompts, seeds, steps and models that they were drawn with."""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from naruto_add.comparison.draw import draw_pixels
from naruto_add.comparison.image_sets import draw_set
from naruto_add.comparison.subjects import Models, Subject, at_steps, load_student, load_subjects, student_at_steps
from naruto_add.config.schema import Samples
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import encode_prompts
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.imaging.grid import CELL_PX, GridColumn, GridRow, make_grid, to_images
from naruto_add.imaging.similarity import nearest, thumbnails
from naruto_add.runtime.files import new_folder
from naruto_add.runtime.sharing import is_main

NUM_SEEDS = 6
NUM_INTERPOLATED = 7
"""Pictures from the first prompt to the last, both included."""
NUM_NEIGHBOURS = 4
HEADINGS = {"student": "student before ADD"}
"""Headings of subjects whose name does not say enough."""


@dataclass(frozen=True)
class _Texts:
    """Captions as the grid shows them, and the prompts that the models get."""

    captions: list[str]
    prompts: list[str]


@dataclass(frozen=True)
class _Column:
    """A column of a grid: its heading, and the subject that draws it."""

    heading: GridColumn
    subject: Subject


class _GridDrawer:
    """Draws from prompts, and remembers what it has drawn for the other grids that show it.

    Unlike `evaluation.drawings.Drawer`, which draws hundreds of pictures, it keeps none on disk.
    """

    def __init__(self) -> None:
        self._images: dict[str, list[Image.Image]] = {}

    def draw(self, subject: Subject, prompts: list[str], *, seed: int) -> list[Image.Image]:
        """One picture per prompt; picture i starts from the initial noise of (seed, i), whatever the subject."""
        key = repr((subject.key(), prompts, seed))
        if key not in self._images:
            drawn = draw_set(subject, prompts, seed=seed, batch_size=len(prompts))
            self._images[key] = [Image.fromarray(image) for image in drawn]
        return self._images[key]


def make_sample_grids(params: Samples, *, models: Models, dataset_dir: Path, out_dir: Path) -> None:
    """Write six grids to `out_dir`.

    `subjects.png` shows all models, `test_captions.png` their pictures of test captions next to the real ones. The
    other grids show the distilled student: `seeds.png`, `steps.png` (with the teacher), `interpolation.png` (between
    two prompts, with the same noise) and `neighbours.png` (next to the most similar training pictures).
    """
    template, seed = models.base.prompt_template, params.seed
    train = load_split(dataset_dir, "train", prompt_template=template)
    test = load_split(dataset_dir, "test", prompt_template=template)[: params.num_test_captions]
    subjects = {name: _column(name, subject) for name, subject in load_subjects(models).items()}
    columns, distilled, teacher = list(subjects.values()), subjects["distilled"], subjects["teacher"]
    at_other_steps = [student_at_steps(distilled.subject, models.sampling, number) for number in params.steps]
    steps = [*(_column("distilled", subject) for subject in at_other_steps), teacher]
    texts = _fill_templates(template, params.prompts)
    ends = _fill_templates(template, [params.interpolate_from, params.interpolate_to])
    drawer = _GridDrawer()
    with new_folder(out_dir) if is_main() else _unused_folder() as folder:
        _prompts_grid(drawer, columns, texts, seed=seed, path=folder / "subjects.png")
        _test_grid(drawer, columns, test, seed=seed, path=folder / "test_captions.png")
        _seeds_grid(drawer, distilled, texts, first_seed=seed, path=folder / "seeds.png")
        _prompts_grid(drawer, steps, texts, seed=seed, path=folder / "steps.png")
        _interpolation_grid(distilled, ends, first_seed=seed, path=folder / "interpolation.png")
        _neighbours_grid(drawer, distilled, texts, train, seed=seed, path=folder / "neighbours.png")


def make_ablation_grid(params: Samples, *, models: Models, others: Mapping[str, Models], path: Path) -> None:
    """Write one grid of the same prompts and noise.

    Its columns are the teacher at its own and at the student's number of steps, the student before ADD, the distilled
    student at `params.steps`, and the distilled student of each of the `others`.
    """
    subjects = load_subjects(models)
    teacher, distilled = subjects["teacher"], subjects["distilled"]
    columns = [
        _column("teacher", teacher),
        _column("teacher", at_steps(teacher, models.sampling.student_steps)),
        _column("student", subjects["student"]),
        *(_column("distilled", student_at_steps(distilled, models.sampling, number)) for number in params.steps),
        *(_column(name, load_student(other, teacher.bundle, other.distilled_dir)) for name, other in others.items()),
    ]
    texts = _fill_templates(models.base.prompt_template, params.prompts)
    _prompts_grid(_GridDrawer(), columns, texts, seed=params.seed, path=path)


def _fill_templates(template: str, captions: list[str]) -> _Texts:
    return _Texts(captions, [fill_template(template, caption) for caption in captions])


def _column(name: str, subject: Subject) -> _Column:
    number = subject.sampler.num_inference_steps
    return _Column(GridColumn(HEADINGS.get(name, name), "1 step" if number == 1 else f"{number} steps"), subject)


def _prompts_grid(drawer: _GridDrawer, columns: Sequence[_Column], texts: _Texts, *, seed: int, path: Path) -> None:
    """A row per prompt, a column per subject."""
    drawn = [drawer.draw(column.subject, texts.prompts, seed=seed) for column in columns]
    make_grid(
        _rows(texts.captions, drawn),
        columns=[column.heading for column in columns],
        cell_px=CELL_PX,
        path=path,
        metadata=_metadata(columns, texts.prompts, [seed]),
    )


def _test_grid(drawer: _GridDrawer, columns: Sequence[_Column], test: list[Example], *, seed: int, path: Path) -> None:
    """A row per test caption, the real picture in the first column."""
    prompts = [example.prompt for example in test]
    real = [_open(example) for example in test]
    drawn = [drawer.draw(column.subject, prompts, seed=seed) for column in columns]
    make_grid(
        _rows([example.caption for example in test], [real, *drawn]),
        columns=[GridColumn("real", "test split"), *(column.heading for column in columns)],
        cell_px=CELL_PX,
        path=path,
        metadata=_metadata(columns, prompts, [seed]),
    )


def _seeds_grid(drawer: _GridDrawer, column: _Column, texts: _Texts, *, first_seed: int, path: Path) -> None:
    """A row per prompt, a column per seed."""
    seeds = [first_seed + offset for offset in range(NUM_SEEDS)]
    note = f"{column.heading.name}, {column.heading.note}"
    make_grid(
        _rows(texts.captions, [drawer.draw(column.subject, texts.prompts, seed=seed) for seed in seeds]),
        columns=[GridColumn(f"seed {seed}", note) for seed in seeds],
        cell_px=CELL_PX,
        path=path,
        metadata=_metadata([column], texts.prompts, seeds),
    )


def _interpolation_grid(column: _Column, ends: _Texts, *, first_seed: int, path: Path) -> None:
    """A row per seed: the prompt embeddings are interpolated linearly, the noise is the same in the whole row."""
    fractions = torch.linspace(0, 1, NUM_INTERPOLATED).tolist()
    bundle, sampler = column.subject.bundle, column.subject.sampler
    start, end = encode_prompts(bundle, ends.prompts)
    embeds = torch.stack([torch.lerp(start, end, fraction) for fraction in fractions])
    seeds = [first_seed, first_seed + 1]
    rows = []
    for seed in seeds:
        noise = initial_noise(bundle, 1, seed=seed).expand(NUM_INTERPOLATED, -1, -1, -1)
        indices = [0] * NUM_INTERPOLATED
        pixels = draw_pixels(bundle, sampler, prompt_embeds=embeds, noise=noise, seed=seed, indices=indices)
        rows.append(GridRow(f"{ends.captions[0]}, to {ends.captions[1]}", to_images(pixels)))
    make_grid(
        rows,
        columns=[GridColumn(f"{100 * fraction:.0f}%", column.heading.note) for fraction in fractions],
        cell_px=CELL_PX,
        path=path,
        metadata=_metadata([column], ends.prompts, seeds),
    )


def _neighbours_grid(
    drawer: _GridDrawer, column: _Column, texts: _Texts, train: list[Example], *, seed: int, path: Path
) -> None:
    """A row per prompt: the drawn picture, then the training pictures that are most similar to it."""
    drawn = drawer.draw(column.subject, texts.prompts, seed=seed)
    train_thumbnails = thumbnails(np.asarray(_open(example)) for example in train)
    indices = nearest(thumbnails(np.asarray(image) for image in drawn), train_thumbnails, num=NUM_NEIGHBOURS)
    rows = [
        GridRow(caption, [image, *(_open(train[index]) for index in neighbours)])
        for caption, image, neighbours in zip(texts.captions, drawn, indices, strict=True)
    ]
    ranks = [GridColumn(f"training {rank + 1}", "by similarity") for rank in range(indices.shape[1])]
    make_grid(
        rows,
        columns=[column.heading, *ranks],
        cell_px=CELL_PX,
        path=path,
        metadata=_metadata([column], texts.prompts, [seed]),
    )


def _rows(captions: Sequence[str], columns: Sequence[Sequence[Image.Image]]) -> list[GridRow]:
    """One row for each caption, with the picture of every column."""
    return [GridRow(caption, images) for caption, images in zip(captions, zip(*columns, strict=True), strict=True)]


def _metadata(columns: Sequence[_Column], prompts: list[str], seeds: list[int]) -> dict[str, Any]:
    """The metadata of a grid except its captions and columns."""
    return {
        "prompts": prompts,
        "seeds": seeds,
        "models": [column.heading.name for column in columns],
        "steps": [column.subject.sampler.num_inference_steps for column in columns],
    }


@contextmanager
def _unused_folder() -> Generator[Path]:
    """A temporary folder, for processes other than the first: only the grids of the first process are kept."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _open(example: Example) -> Image.Image:
    with Image.open(example.image_path) as image:
        return image.convert("RGB")
