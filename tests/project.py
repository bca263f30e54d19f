"""A copy of this project in a folder of its own, with a tiny base model and tiny numbers, for the slow tests."""

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
    "ingest.num_drawings": 40,
    "ingest.min_side_px": 32,
    "ingest.validation_fraction": 0.1,
    "ingest.test_fraction": 0.2,
    "teacher.lora_rank": 2,
    "teacher.lora_alpha": 2,
    "teacher.num_steps": 24,  # so many that a test is in time to kill it after its first checkpoint
    "teacher.batch_size": 4,
    "teacher.warmup_steps": 2,
    "teacher.validation_every_steps": 4,
    "student.pool_size": 40,
    "student.pool_steps": 4,
    "student.num_steps": 6,
    "student.knowledge_steps": 3,
    "student.warmup_steps": 2,
    "student.batch_size": 4,
    "student.validation_every_steps": 3,
    "add.num_steps": 28,  # with the rate and the average, so many that something better than the start is kept
    "add.learning_rate": 2.0e-3,
    "add.ema_decay": 0.8,
    "add.batch_size": 8,
    "add.warmup_steps": 2,
    "add.adv_start_steps": 2,
    "add.adv_ramp_steps": 2,
    "add.validation_every_steps": 4,
    "evaluate.num_images": 4,
    "evaluate.latency_repeats": 1,
    "evaluate.teacher_sweep": [4, 6],
    "evaluate.student_sweep": [1, 4],
    "evaluate.few_images": 4,
    "evaluate.classifier_steps": 2,
}


class Project:
    """The copy. Its commands find this interpreter's environment first on the path, and no network (see sandbox/)."""

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

    @property
    def log_dir(self) -> Path:
        """Where the sandbox keeps its log: beside the project, which must not see it."""
        return self.root.with_name(f"{self.root.name}_log")

    def copy(self, root: Path) -> "Project":
        """The same project, with all that was run in it, in another folder."""
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
            section, name = key.split(".")
            values[section][name] = value
        yaml.dump(values, path)

    def commit(self) -> None:
        """Commit all there is."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A copy")

    def git(self, *args: str) -> str:
        """Run git; its output."""
        return self.run("git", *args)

    def dvc(self, *args: str) -> str:
        """Run dvc; its output. Raises AssertionError where it fails."""
        return self.run(*DVC, *args)

    def run(self, *command: str) -> str:
        """Run a command to its end; its output. Raises AssertionError where it fails."""
        return self._run(command, ends_well=True)

    def fail(self, *command: str) -> str:
        """Run a command that ends with an error; its output. Raises AssertionError where it does not."""
        return self._run(command, ends_well=False)

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

    def wait_for(self, pattern: str, process: "subprocess.Popen[str]") -> Path:
        """The file that this pattern matches, as soon as the process has made it."""
        give_up_at = time.monotonic() + WAIT_SECONDS
        while not (found := list(self.root.glob(pattern))):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < give_up_at, f"no {pattern} after {WAIT_SECONDS} s"
            time.sleep(0.02)
        return found[0]

    def environment(self) -> dict[str, str]:
        """This process's environment without DVC's variables, with the sandbox."""
        settings = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(SANDBOX),
            "SANDBOX_LOG": str(self.log_dir),
            "DVC_SITE_CACHE_DIR": str(self.log_dir / "dvc"),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "HF_"))}
        return {**inherited, **settings}

    def stages_run(self, output: str) -> list[str]:
        """The stages that this output of `dvc repro` says were run, in order."""
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]

    def declared(self, stage: str) -> list[Path]:
        """The artifacts that the stage makes, in dvc.yaml."""
        fields = YAML(typ="safe").load(self.root / "dvc.yaml")["stages"][stage]
        items = [item for kind in ("outs", "metrics", "plots") for item in fields.get(kind, [])]
        return [self.root / (next(iter(item)) if isinstance(item, dict) else item) for item in items]

    def locked(self, stage: str) -> dict[str, Any]:
        """What dvc.lock holds of a stage: its command, parameters, and the hashes of all that it read and wrote."""
        entry: dict[str, Any] = YAML(typ="safe").load(self.root / "dvc.lock")["stages"][stage]
        return entry

    def forget(self, stage: str) -> None:
        """Undo a stage: nothing is left that it, or DVC, could take its results or its progress from."""
        yaml = YAML()
        lock = yaml.load(self.root / "dvc.lock")
        del lock["stages"][stage]
        yaml.dump(lock, self.root / "dvc.lock")
        shutil.rmtree(self.root / ".dvc/cache/runs")
        shutil.rmtree(self.root / ".checkpoints" / stage)
        for path in self.declared(stage):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def connections(self) -> list[str]:
        """The hosts that any process asked for."""
        return self._logged("network")

    def code_used(self) -> dict[str, set[Path]]:
        """Our files that the stages had imported, by stage."""
        files: dict[str, set[Path]] = {}
        for line in self._logged("code"):
            stage, _, file = line.partition("\t")
            files.setdefault(stage, set()).add(Path(file))
        return files

    def _logged(self, name: str) -> list[str]:
        path = self.log_dir / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _run(self, command: tuple[str, ...], *, ends_well: bool) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode == 0) is ends_well, done.stdout[-4000:]
        return done.stdout


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
