"""The ablation's grid of pictures, drawn with the models that its experiments left in DVC's cache."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_add.ablation.experiments import fetch
from naruto_add.comparison.samples import make_ablation_grid
from naruto_add.comparison.subjects import Models
from naruto_add.config import paths
from naruto_add.config.schema import Params


@dataclass(frozen=True)
class TrainedVariant:
    """A variant's column heading, the commit of the experiment that trained it, and its parameters."""

    name: str
    revision: str
    params: Params


def draw_grid(variants: Sequence[TrainedVariant], *, path: Path) -> None:
    """Write one grid of the same prompts and noise.

    It shows the first variant's teacher, its student before ADD and its distilled student at several numbers of steps,
    then the distilled student of every other variant. Raises StageError if DVC's cache lacks a model.
    """
    first, *others = variants
    with tempfile.TemporaryDirectory(prefix="ablation-") as name:
        folder = Path(name)
        for out in (paths.TEACHER, paths.STUDENT):
            fetch(first.revision, out, to=folder / out)
        for index, variant in enumerate(variants):
            fetch(variant.revision, paths.DISTILLED, to=folder / str(index))
        models, *other_models = (_models(variant.params, folder, str(index)) for index, variant in enumerate(variants))
        make_ablation_grid(
            first.params.samples,
            models=models,
            others={variant.name: own for variant, own in zip(others, other_models, strict=True)},
            path=path,
        )


def _models(params: Params, folder: Path, distilled: str) -> Models:
    """Teacher and student are the first variant's. No variant can change the teacher; students are not drawn."""
    return Models(
        base=params.base,
        sampling=params.sampling,
        teacher_dir=folder / paths.TEACHER,
        student_dir=folder / paths.STUDENT,
        distilled_dir=folder / distilled,
    )
