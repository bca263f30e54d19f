"""What docs/watching.md says of dvc: live numbers while a stage runs, and artifacts that other projects get by name."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.extras import need_packages
from tests.project import DVC, Project

pytestmark = pytest.mark.slow

ENDLESS = {"teacher.num_steps": 100_000, "teacher.validation_every_steps": 50}
NUMBERS = "tracking/dvclive/teacher/metrics.json"
"""What DVCLive writes after each step of the teacher's training."""


def test_exp_show_has_the_numbers_of_the_stage_that_runs(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    need_packages("dvclive")
    project = Project(tmp_path / "project", tiny_pipeline_dir, ENDLESS)
    running = project.start(*DVC, "exp", "run", "-S", "tracking=dvclive", "teacher")
    try:
        project.wait_for(NUMBERS, running)
        first = _live_numbers(project)
        second = _live_numbers(project)
        assert running.poll() is None, "the training is still running"
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert 0 <= first["step"] < second["step"]
    assert first["loss"] > 0


def test_artifacts_are_found_by_name_in_a_clone(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    """With other bytes than the stages write, so that none has to run."""
    project, clone, other = Project(tmp_path / "project", tiny_pipeline_dir), tmp_path / "clone", tmp_path / "other"
    artifacts = YAML(typ="safe").load(project.root / "dvc.yaml")["artifacts"]
    assert set(artifacts) == {"teacher-lora", "student", "export"}
    for stage in YAML(typ="safe").load(project.root / "dvc.yaml")["stages"]:
        for path in project.declared(stage):
            _write_something(path)
    project.dvc("commit", "--force")
    project.dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    project.dvc("push")
    project.commit()
    for name in artifacts:
        project.run("gto", "register", name, "--version", "v0.1.0")
    project.run("git", "clone", "--quiet", str(project.root), str(clone))
    other.mkdir()
    for name, artifact in artifacts.items():
        project.dvc("artifacts", "get", str(clone), name, "--out", str(other / name))
        assert _contents(other / name) == _contents(project.root / artifact["path"])
        assert not (clone / artifact["path"]).exists(), "it comes from the storage"


def _live_numbers(project: Project) -> dict[str, Any]:
    """What `dvc exp show` has of the workspace, in which the experiment runs."""
    output = project.dvc("exp", "show", "--json")
    (listed,) = re.findall(r"^\[.*\]$", output, re.MULTILINE | re.DOTALL)
    (workspace,) = [row for row in json.loads(listed) if row["rev"] == "workspace"]
    numbers: dict[str, Any] = workspace["data"]["metrics"][NUMBERS]["data"]
    return numbers


def _write_something(path: Path) -> None:
    """A folder for an output without a suffix, a file for others; each with bytes of its own."""
    file = path if path.suffix else path / "weights"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{{"{path.name}": 1}}\n')


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
