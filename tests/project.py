"""A copy of this project in a temporary folder, with a tiny base model and tiny parameters, for the slow tests."""

import copy
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
SANDBOX = Path(__file__).parent / "sandbox"
DVC = (sys.executable, "-m", "dvc")
WAIT_SECONDS = 300.0

TINY: dict[str, Any] = {
    "base.resolution_px": 32,
    "sampling.teacher_steps": 6,
    "sampling.pool_steps": 4,
    "ingest.num_drawings": 40,
    "ingest.min_side_px": 32,
    "ingest.validation_fraction": 0.1,
    "ingest.test_fraction": 0.2,
    "teacher.lora_rank": 2,
    "teacher.num_steps": 24,  # enough for a test to kill it after its first checkpoint
    "teacher.batch_size": 4,
    "teacher.optimizer.warmup_steps": 2,
    "teacher.validation_every_steps": 4,
    "student.pool_size": 40,
    "student.num_steps": 6,
    "student.knowledge_steps": 3,
    "student.optimizer.warmup_steps": 2,
    "student.batch_size": 4,
    "student.validation_every_steps": 3,
    "add.num_steps": 28,  # enough, with this rate and average, for a student that is better than at the start
    "add.optimizer.learning_rate": 2.0e-3,
    "add.optimizer.ema_decay": 0.8,
    "add.optimizer.warmup_steps": 2,
    "add.batch_size": 8,
    "add.adv_start_steps": 2,
    "add.adv_ramp_steps": 2,
    "add.validation_every_steps": 4,
    "evaluate.num_images": 4,
    "evaluate.latency_repeats": 1,
    "evaluate.teacher_steps": 4,
    "evaluate.teacher_sweep": [4, 6],
    "evaluate.student_sweep": [1, 4],
    "evaluate.sweep_images": 4,
    "evaluate.classifier_steps": 2,
}


class Project:
    """The copy. Its commands use the environment of this interpreter, and have no network (see sandbox/)."""

    def __init__(self, root: Path, base_model: Path, changes: Mapping[str, Any] = {}) -> None:
        self.root = root
        self.log_dir.mkdir(parents=True)
        _copy_tracked(root)
        shutil.rmtree(root / "base/model")
        shutil.copytree(base_model, root / "base/model")
        self.set_params({**TINY, **changes})
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "test")
        self.git("config", "user.email", "test@example.org")
        self.git("config", "commit.gpgsign", "false")
        self.commit()

    @classmethod
    def existing(cls, root: Path) -> "Project":
        """The project that an earlier process made at `root`."""
        project = cls.__new__(cls)
        project.root = root
        return project

    @property
    def log_dir(self) -> Path:
        """The folder of the sandbox's log, outside the project."""
        return self.root.with_name(f"{self.root.name}_log")

    def copy(self, root: Path) -> "Project":
        """The same project, with the results of everything that ran in it, in another folder."""
        twin = copy.copy(self)
        twin.root = root
        twin.log_dir.mkdir(parents=True)
        shutil.copytree(self.root, root, symlinks=True)
        return twin

    def set_params(self, changes: Mapping[str, Any]) -> None:
        """Change params.yaml by dotted keys."""
        yaml = YAML()
        path = self.root / "params.yaml"
        values = yaml.load(path)
        for key, value in changes.items():
            *sections, name = key.split(".")
            inner = values
            for section in sections:
                inner = inner[section]
            inner[name] = value
        yaml.dump(values, path)

    def commit(self) -> None:
        """Commit all files."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A copy")

    def git(self, *args: str) -> str:
        """Run git and return its output. Raises AssertionError if it fails."""
        return self.run("git", *args)

    def dvc(self, *args: str) -> str:
        """Run dvc and return its output. Raises AssertionError if it fails."""
        return self.run(*DVC, *args)

    def run(self, *command: str) -> str:
        """Run a command and return its output. Raises AssertionError if it fails."""
        return self._run(command, succeeds=True)

    def fail(self, *command: str) -> str:
        """Run a command and return its output. Raises AssertionError if it succeeds."""
        return self._run(command, succeeds=False)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in its own process group."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, pattern: str, process: "subprocess.Popen[str]") -> Path:
        """The first file that matches the pattern, as soon as the process has written it."""
        give_up_at = time.monotonic() + WAIT_SECONDS
        while not (found := list(self.root.glob(pattern))):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < give_up_at, f"no {pattern} after {WAIT_SECONDS} s"
            time.sleep(0.02)
        return found[0]

    def environment(self) -> dict[str, str]:
        """The environment of this process without the variables of DVC and the hub, with the sandbox, and with bash.

        DVC runs a command in `$SHELL`. bash replaces itself by the command, so that DVC is the parent of the stage.
        """
        settings = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(SANDBOX),
            "SANDBOX_LOG": str(self.log_dir),
            "DVC_SITE_CACHE_DIR": str(self.log_dir / "dvc"),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "SHELL": "/bin/bash",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "HF_"))}
        return {**inherited, **settings}

    def stages_run(self, output: str) -> list[str]:
        """The stages that ran, in order, according to this output of `dvc repro`."""
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]

    def declared(self, stage: str) -> list[Path]:
        """The artifacts of the stage in dvc.yaml."""
        fields = YAML(typ="safe").load(self.root / "dvc.yaml")["stages"][stage]
        items = [item for kind in ("outs", "metrics", "plots") for item in fields.get(kind, [])]
        return [self.root / (next(iter(item)) if isinstance(item, dict) else item) for item in items]

    def locked(self, stage: str) -> dict[str, Any]:
        """The entry of a stage in dvc.lock: its command, parameters, and hashes of all that it read and wrote."""
        entry: dict[str, Any] = YAML(typ="safe").load(self.root / "dvc.lock")["stages"][stage]
        return entry

    def forget(self, stage: str) -> None:
        """Undo a stage: delete its results, its checkpoints and DVC's memory of them."""
        yaml = YAML()
        lock = yaml.load(self.root / "dvc.lock")
        del lock["stages"][stage]
        yaml.dump(lock, self.root / "dvc.lock")
        shutil.rmtree(self.root / ".dvc/cache/runs")
        shutil.rmtree(self.root / ".checkpoints" / stage, ignore_errors=True)  # `evaluate` has none
        for path in self.declared(stage):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def connections(self) -> list[str]:
        """The hosts that a process tried to reach."""
        return self._logged("network")

    def code_used(self) -> dict[str, set[Path]]:
        """The files of this project that each stage imported."""
        files: dict[str, set[Path]] = {}
        for line in self._logged("code"):
            stage, _, file = line.partition("\t")
            files.setdefault(stage, set()).add(Path(file))
        return files

    def _logged(self, name: str) -> list[str]:
        path = self.log_dir / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _run(self, command: tuple[str, ...], *, succeeds: bool) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode == 0) is succeeds, done.stdout[-4000:]
        return done.stdout


def _copy_tracked(root: Path) -> None:
    """Copy all files that Git tracks or would add."""
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
