"""A tiny ablation through DVC's queue: its figures come from its experiments, and no experiment runs twice."""

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
    "full": {"question": "What is compared?", "subject": "distilled", "seeds": [0, 1], "settings": {}},
    "no_warm_up": {
        "question": "Does the warm-up help?",
        "subject": "distilled",
        "seeds": [0, 1],
        "settings": {"student.num_steps": 0, "add.require_trained_student": False},
    },
    "before_add": {"question": "What does ADD improve?", "subject": "student", "seeds": [0], "settings": {}},
}
UNTRAINABLE = {
    "question": "Does it fail?",
    "subject": "distilled",
    "seeds": [0],
    "settings": {"add.discriminator_blocks": ["up_blocks.7"]},
}
RUN = "import sys; sys.path.insert(0, 'src'); from naruto_add.cli.main import main; main()"
"""`naruto-add` with the code of the copy instead of the installed code."""
METRIC = "fd_efficientnet_lite1"


@pytest.fixture(scope="module")
def finished(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project in which only the ablation has run, and its output. Tests must not change it."""
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
    assert "0 of 4 experiments exist; 4 to run" in output
    assert "| no warm up |     2 |" in output


def test_the_grid_shows_every_variant(finished: tuple[Project, str]) -> None:
    with Image.open(finished[0].root / "metrics/grids/ablation.png") as grid:
        models = json.loads(grid.text["models"])
    assert models == ["teacher", "teacher", "student before ADD", *["distilled"] * 4, "no warm up"]


def test_the_working_tree_changes_only_by_the_results(finished: tuple[Project, str]) -> None:
    changed = {line[3:] for line in finished[0].git("status", "--porcelain", "--untracked-files=all").splitlines()}
    assert changed == {"metrics/ablation.json", "metrics/grids/ablation.png", "variants.yaml"}


def test_experiments_run_again_only_if_their_code_or_parameters_changed(project: Project) -> None:
    (project.root / "metrics/ablation.json").unlink()
    assert "4 of 4 experiments exist; 0 to run" in project.run(*_ablation(project, VARIANTS, "--no-grid"))
    assert (project.root / "metrics/ablation.json").exists()

    project.set_params({"samples.seed": 7})  # no metric depends on it
    assert "; 0 to run" in project.run(*_ablation(project, VARIANTS, "--no-grid"))

    _add_comment(project, "src/naruto_add/losses/adversarial.py")
    output = project.run(*_ablation(project, VARIANTS, "--no-grid", "--collect"))
    assert "run by another version of the code: ablation-full-0, ablation-full-1, ablation-no_warm_up-0" in output
    output = project.run(*_ablation(project, VARIANTS, "--no-grid", "--only", "before_add"))
    assert "0 of 1 experiments exist; 1 to run" in output
    assert json.loads((project.root / "metrics/ablation.json").read_text())["before_add.num_seeds"] == 1


def test_a_failed_experiment_is_reported_with_its_error_and_left_out(project: Project) -> None:
    output = project.fail(*_ablation(project, {**VARIANTS, "untrainable": UNTRAINABLE}, "--no-grid"))
    assert "4 of 5 experiments exist; 1 to run" in output
    assert "the table lacks these experiments:" in output
    assert "ablation-untrainable-0: error: add.discriminator_blocks" in output
    figures = json.loads((project.root / "metrics/ablation.json").read_text())
    assert "full.num_seeds" in figures
    assert not [key for key in figures if key.startswith("untrainable")]


def _ablation(project: Project, variants: dict[str, Any], *options: str) -> tuple[str, ...]:
    YAML().dump(variants, project.root / "variants.yaml")
    return (sys.executable, "-c", RUN, "ablation", "--variants", "variants.yaml", *options)


def _evaluated(project: Project, experiment: str) -> dict[str, float]:
    revision = project.git("for-each-ref", "--format=%(objectname)", f"refs/exps/**/{experiment}").strip()
    metrics: dict[str, float] = json.loads(project.git("show", f"{revision}:metrics/evaluate.json"))
    return metrics


def _add_comment(project: Project, path: str) -> None:
    with (project.root / path).open("a") as stream:
        stream.write("# A comment.\n")
