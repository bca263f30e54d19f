"""A copy of this project in a folder of its own, with a tiny base model and tiny numbers, for the slow tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent

TINY: dict[str, Any] = {
    "base.resolution_px": 32,
    "sampling.teacher_steps": 6,
    "ingest.num_images": 40,
    "ingest.min_side_px": 32,
    "ingest.validation_fraction": 0.1,
    "ingest.test_fraction": 0.2,
    "teacher.lora_rank": 2,
    "teacher.lora_alpha": 2,
    "teacher.num_steps": 12,
    "teacher.batch_size": 4,
    "teacher.warmup_steps": 2,
    "teacher.validation_every_steps": 4,
    "student.pool_size": 40,
    "student.pool_steps": 2,
    "student.num_steps": 6,
    "student.batch_size": 4,
    "student.validation_every_steps": 3,
    "add.num_steps": 12,
    "add.batch_size": 4,
    "add.adv_start_steps": 2,
    "add.adv_ramp_steps": 2,
    "add.validation_every_steps": 4,
    "evaluate.num_images": 4,
    "evaluate.latency_repeats": 1,
}


class Project:
    """The copy; every command runs in it with this interpreter's environment first on the path, offline."""

    def __init__(self, root: Path, base_model: Path, changes: Mapping[str, Any] = {}) -> None:
        self.root = root
        _copy_tracked(root)
        shutil.rmtree(root / "base/model")
        shutil.copytree(base_model, root / "base/model")
        self.set({**TINY, **changes})
        for command in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"], ["commit", "-qm", "A copy"]):
            self.git(*command)

    def set(self, changes: Mapping[str, Any]) -> None:
        """Change params.yaml by dotted keys."""
        yaml = YAML()
        path = self.root / "params.yaml"
        values = yaml.load(path)
        for key, value in changes.items():
            section, name = key.split(".")
            values[section][name] = value
        yaml.dump(values, path)

    def git(self, *args: str) -> str:
        """Run git; its output."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        return self.run("git", *identity, *args)

    def dvc(self, *args: str) -> str:
        """Run dvc; its output. Raises AssertionError where it fails."""
        return self.run(sys.executable, "-m", "dvc", *args)

    def run(self, *command: str) -> str:
        """Run a command to its end; its output. Raises AssertionError where it fails."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """This process's environment, with its interpreter first on the path and no hub."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        settings = {"PATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **settings}

    def stages_run(self, output: str) -> list[str]:
        """The stages that this output of `dvc repro` says were run, in order."""
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]


def _copy_tracked(root: Path) -> None:
    """What Git tracks, and what it would if it were added now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
