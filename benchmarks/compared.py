"""What the benchmarks of picture quality load: the models in models/, and the data set in data/."""

from pathlib import Path

from naruto_add.comparison.subjects import Models, Subject, evaluated_subjects
from naruto_add.config import paths
from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.data.dataset import Example, load_split


def load_compared() -> tuple[Params, dict[str, Subject]]:
    """The values of params.yaml, and the models of models/ as `evaluate` compares them."""
    params = load_params(Path("params.yaml"))
    folders = {"teacher_dir": paths.TEACHER, "student_dir": paths.STUDENT, "distilled_dir": paths.DISTILLED}
    models = Models(base=params.base, sampling=params.sampling, **folders)
    return params, evaluated_subjects(models, dpm_steps=params.evaluate.teacher_steps)


def examples(params: Params, split: str) -> list[Example]:
    """A split of the data set in data/dataset."""
    return load_split(paths.DATASET, split, prompt_template=params.base.prompt_template)
