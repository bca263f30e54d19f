"""The smoke run on a GPU cuts every number of steps, and needs nothing that is not here."""

from pathlib import Path

from benchmarks.gpu_smoke import make_params
from naruto_add.config.load import parse_params
from naruto_add.pipeline.requirements import requirements


def test_every_stage_takes_few_steps_and_nothing_is_downloaded(sd15_dir: Path) -> None:
    params = parse_params(make_params("sd15", sd15_dir, resolution_px=64, steps=2))
    trained = [params.teacher.num_steps, params.student.num_steps, params.add.num_steps]
    drawn = [params.sampling.teacher_steps, params.sampling.pool_steps, params.evaluate.teacher_steps]
    assert max(*trained, *drawn, *params.evaluate.teacher_sweep, *params.evaluate.student_sweep) <= 4
    kinds = [each.name.split()[0] for each in requirements(params)]
    assert kinds[:2] == ["base.model", "ingest.source"]
    assert len(kinds) == 3  # the third is memory: no network and no package is asked for
