"""The ablation itself, tiny, through DVC's queue: its figures are those of its experiments, and nothing runs twice."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.project import Project

pytestmark = pytest.mark.slow

VARIANTS: dict[str, Any] = {
    "full": {"says": "everything", "subject": "distilled", "seeds": [0, 1], "settings": {}},
    "no_warm_up": {
        "says": "from inherited weights",
        "subject": "distilled",
        "seeds": [0, 1],
        "settings": {"student.num_steps": 0, "add.gate": False},
    },
    "before_add": {"says": "the warmed-up student", "subject": "student", "seeds": [0], "settings": {}},
}
UNTRAINABLE = {
    "says": "the teacher has no such block",
    "subject": "distilled",
    "seeds": [0],
    "settings": {"add.discriminator_blocks": ["up_blocks.7"]},
}
RUN = "import runpy, sys; sys.path.insert(0, 'src'); runpy.run_module('naruto_add.ablation', run_name='__main__')"
"""As `python -m naruto_add.ablation`, but with the project's own code and not the installed one."""
METRIC = "fd_efficientnet_lite1"


@pytest.fixture(scope="module")
def finished(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project where nothing was run but the ablation, and the output of that; not to be changed."""
    project = Project(tmp_path_factory.mktemp("ablation") / "project", tiny_pipeline_dir)
    return project, project.run(*_ablation(project, VARIANTS))


@pytest.fixture
def project(finished: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of the project, for one test to change."""
    return finished[0].copy(tmp_path / "project")


def test_figures_are_the_experiments_own(finished: tuple[Project, str]) -> None:
    project, output = finished
    figures = json.loads((project.root / "metrics/ablation.json").read_text())
    for variant, subject, seeds in (
        ("full", "distilled", 2),
        ("no_warm_up", "distilled", 2),
        ("before_add", "student", 1),
    ):
        owner = "full" if variant == "before_add" else variant
        values = [_evaluated(project, f"ablation-{owner}-{seed}")[f"{subject}.{METRIC}"] for seed in range(seeds)]
        assert figures[f"{variant}.num_seeds"] == seeds
        assert figures[f"{variant}.{METRIC}.mean"] == pytest.approx(statistics.fmean(values), rel=1e-5)
        if seeds > 1:
            assert figures[f"{variant}.{METRIC}.std"] == pytest.approx(statistics.stdev(values), rel=1e-4)
            assert values[0] != values[1]
    assert "0 of 4 experiments are there; 4 to run" in output
    assert "| no warm up |     2 |" in output


def test_pictures_are_of_every_variant(finished: tuple[Project, str]) -> None:
    with Image.open(finished[0].root / "metrics/grids/ablation.png") as grid:
        models = json.loads(grid.text["models"])
    assert models == ["teacher", "teacher", "student before ADD", *["distilled"] * 4, "no warm up"]


def test_the_work_tree_is_left_as_it_was_but_for_the_results(finished: tuple[Project, str]) -> None:
    changed = {line[3:] for line in finished[0].git("status", "--porcelain", "--untracked-files=all").splitlines()}
    assert changed == {"metrics/ablation.json", "metrics/grids/ablation.png", "variants.yaml"}


def test_what_is_there_is_not_run_again_and_what_is_stale_is(project: Project) -> None:
    (project.root / "metrics/ablation.json").unlink()
    assert "4 of 4 experiments are there; 0 to run" in project.run(*_ablation(project, VARIANTS, "--no-grid"))
    assert (project.root / "metrics/ablation.json").exists()

    project.set_params({"samples.seed": 7})  # no figure depends on it
    assert "; 0 to run" in project.run(*_ablation(project, VARIANTS, "--no-grid"))

    _remark(project, "src/naruto_add/losses/adversarial.py")
    output = project.run(*_ablation(project, VARIANTS, "--no-grid", "--collect"))
    assert "run by other code than what is here now: ablation-full-0, ablation-full-1, ablation-no_warm_up-0" in output
    output = project.run(*_ablation(project, VARIANTS, "--no-grid", "--only", "before_add"))
    assert "0 of 1 experiments are there; 1 to run" in output
    assert json.loads((project.root / "metrics/ablation.json").read_text())["before_add.num_seeds"] == 1


def test_an_experiment_that_fails_is_named_with_its_reason_and_left_out(project: Project) -> None:
    output = project.fail(*_ablation(project, {**VARIANTS, "untrainable": UNTRAINABLE}, "--no-grid"))
    assert "4 of 5 experiments are there; 1 to run" in output
    assert "left out of the table:" in output
    assert "ablation-untrainable-0: error: add.discriminator_blocks" in output
    figures = json.loads((project.root / "metrics/ablation.json").read_text())
    assert "full.num_seeds" in figures
    assert not [key for key in figures if key.startswith("untrainable")]


def _ablation(project: Project, variants: dict[str, Any], *options: str) -> tuple[str, ...]:
    YAML().dump(variants, project.root / "variants.yaml")
    return (sys.executable, "-c", RUN, "--variants", "variants.yaml", *options)


def _evaluated(project: Project, experiment: str) -> dict[str, float]:
    revision = project.git("for-each-ref", "--format=%(objectname)", f"refs/exps/**/{experiment}").strip()
    metrics: dict[str, float] = json.loads(project.git("show", f"{revision}:metrics/evaluate.json"))
    return metrics


def _remark(project: Project, path: str) -> None:
    with (project.root / path).open("a") as stream:
        stream.write("# A remark.\n")
