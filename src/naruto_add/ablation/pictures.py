"""The pictures of an ablation, drawn with what its experiments left in DVC's cache."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_add import paths
from naruto_add.ablation.experiments import fetch
from naruto_add.evaluation.subjects import Models
from naruto_add.params import Params
from naruto_add.samples import make_ablation_grid


@dataclass(frozen=True)
class Drawn:
    """A variant's heading, the commit of the experiment that trained it, and its parameters."""

    name: str
    revision: str
    params: Params


def draw_grid(variants: Sequence[Drawn], *, path: Path) -> None:
    """Write one grid of the same prompts and noise: the first variant's teacher, its student before and after ADD at
    several numbers of steps, then the distilled student of every other variant.

    Raises StageError where DVC's cache does not hold an experiment's models.
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
            others={variant.name: its for variant, its in zip(others, other_models, strict=True)},
            prompt_template=first.params.teacher.prompt_template,
            path=path,
        )


def _models(params: Params, folder: Path, distilled: str) -> Models:
    """The teacher is everybody's: no variant may set anything that it depends on."""
    return Models(
        base=params.base,
        sampling=params.sampling,
        num_student_steps=len(params.add.timesteps),
        teacher_dir=folder / paths.TEACHER,
        student_dir=folder / paths.STUDENT,
        distilled_dir=folder / distilled,
    )
