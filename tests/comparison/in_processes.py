"""Drawing with tiny models, to be started by `accelerate launch`: `in_processes.py PIPELINE DATASET OUT`."""

import sys
from pathlib import Path

import numpy as np

from naruto_add.comparison.samples import make_sample_grids
from naruto_add.comparison.subjects import Models, load_subjects
from naruto_add.evaluation.cache import Cache
from naruto_add.evaluation.drawings import Drawer
from naruto_add.runtime.sharing import is_main
from tests.mini_profile import mini_params


def draw(pipeline: Path, dataset: Path, out: Path) -> None:
    """Write OUT/images.npy, pictures that the evaluation draws in batches, and OUT/grids."""
    params = mini_params()
    models = Models(
        base=params.base.model_copy(update={"model": str(pipeline), "resolution_px": 32}),
        sampling=params.sampling.model_copy(update={"teacher_steps": 4}),
        teacher_dir=pipeline,
        student_dir=pipeline / "unet",
        distilled_dir=pipeline / "unet",
    )
    teacher = load_subjects(models)["teacher"]
    prompts = [f"picture {number}" for number in range(7)]
    images = Drawer(prompts=prompts, num_first=0, seed=0, batch_size=2, cache=Cache(out / "cache")).draw(teacher)
    if is_main():
        np.save(out / "images.npy", images)
    samples = params.samples.model_copy(update={"prompts": prompts[:3], "num_test_captions": 2, "steps": [1, 2]})
    make_sample_grids(samples, models=models, dataset_dir=dataset, out_dir=out / "grids")


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
