"""What all trials of `make soak` share: a project to disturb, the stage in it, and the comparison at the end."""

import contextlib
import json
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from tests.project import Project
from tests.soak.process import POLL_SECONDS, StageProcess

STAGES = ("teacher", "student", "add", "evaluate")
TRAINED = STAGES[:3]
"""The stages that have checkpoints."""
READERS = {"teacher": "teacher", "student": "student", "pool": "student", "add": "add", "evaluate": "evaluate"}
"""The stage that reads the caches in a folder of .checkpoints."""
MEASURED = ("_ms", "images_per_second", "speedup", "peak_rss_mib")
"""Ends of the names of metrics that differ between any two runs: times, and the memory of the process."""
MAX_ATTEMPTS = 6
"""How often a trial is repeated at another moment, if the stage ended before it was disturbed."""
INTERRUPTED = "interrupted: the next `dvc repro` runs this stage again; training resumes from its last checkpoint"
"""How a stage ends after Ctrl-C, and a training after SIGTERM, with status 1 (docs/experiments.md)."""
MAX_SAVED_MORE = 3
MAX_WAIT_SECONDS = 0.2
"""Trainings of a few steps save several times a second."""
_SECONDS: dict[str, float] = {}
"""How long each stage took when it last ran to its end."""


class SoakError(Exception):
    """A trial ended with other outputs, with a traceback, without the documented exit, or disturbed nothing."""


@dataclass(frozen=True)
class Trial:
    """What is done to which stage; `detail` tells trials of one kind and stage apart."""

    kind: str
    stage: str
    detail: str = ""

    @property
    def name(self) -> str:
        """What the log has of it."""
        return " ".join(filter(None, (self.kind, self.stage, self.detail)))


@dataclass(frozen=True)
class Progress:
    """What a stage has saved, from which it must go on."""

    num_done: int | None
    """Steps in the checkpoint; None without a checkpoint."""
    files: frozenset[tuple[Path, int]]
    """The caches, with their inodes: a file that is computed again gets another one."""


@dataclass(frozen=True)
class Run:
    """One trial's project, randomness, and counts of what it did."""

    trial: Trial
    finished: Project
    root: Path
    rng: random.Random
    counts: "Counter[str]"

    @property
    def stage(self) -> str:
        """The stage that is disturbed."""
        return self.trial.stage

    def project(self, *, keeps_caches: bool = False) -> Project:
        """A new copy of the finished project in which the stage has not run."""
        for folder in (self.root, self.root.with_name(f"{self.root.name}_log")):
            shutil.rmtree(folder, ignore_errors=True)
        project = self.finished.copy(self.root)
        caches = [name for name, reader in READERS.items() if reader == self.stage]
        saved = self.finished.root / ".checkpoints"
        project.forget(self.stage)
        for name in caches:
            shutil.rmtree(project.root / ".checkpoints" / name, ignore_errors=True)
            if keeps_caches and (saved / name).exists():
                shutil.copytree(saved / name, project.root / ".checkpoints" / name)
        return project

    def start(self, project: Project, *, max_file_bytes: int | None = None, **variables: str) -> StageProcess:
        """The stage, in a process group of its own."""
        return StageProcess(project, self.stage, variables=variables, max_file_bytes=max_file_bytes)

    def attempts(self) -> Iterator[Project]:
        """New projects, until the caller leaves the loop because it disturbed the stage.

        Raises SoakError after a few.
        """
        for _ in range(MAX_ATTEMPTS):
            yield self.project()
            self.counts["repeated: the stage ended before"] += 1
        raise SoakError(f"the stage ended before it was disturbed, {MAX_ATTEMPTS} times")

    def end(self, project: Project, *, goes_on_from: Progress | None = None) -> None:
        """Run the stage to its end without disturbance, in which it may refuse nothing, and compare its outputs."""
        started = time.monotonic()
        status, output = self.start(project).finish()
        _SECONDS[self.stage] = time.monotonic() - started
        if status:
            raise SoakError(f"it ended with status {status}: {output[-1500:]}")
        if goes_on_from:
            self.require_went_on(project, goes_on_from, output)
        self.compare(project)

    def progress(self, project: Project) -> Progress:
        """What the stage has saved, while it does not run."""
        checkpoint = find_checkpoint(project, self.stage)
        num_done = int(torch.load(checkpoint, weights_only=True)["num_done"]) if checkpoint else None
        return Progress(num_done, frozenset((path, path.stat().st_ino) for path in caches(project, self.stage)))

    def require_went_on(self, project: Project, before: Progress, output: str) -> None:
        """Raise SoakError if the run with this output began at another step, or computed a cache again."""
        first = first_step(output, self.stage)
        if before.num_done is not None and first != before.num_done:
            raise SoakError(f"its checkpoint is of step {before.num_done}, but it began at {first}: {output[-1500:]}")
        if again := self.lost(project, before):
            raise SoakError(f"it computed caches again: {again}")
        self.counts["went on from a checkpoint"] += before.num_done is not None
        self.counts["went on with caches"] += bool(before.files)

    def lost(self, project: Project, before: Progress) -> list[str]:
        """The names of caches that are no longer there, except parts of a pool that is now complete, in one file."""
        now = self.progress(project).files
        is_complete = any(path.parent.parent.name == "pool" and "-" in path.stem for path, _ in now)
        gone = (path for path, _ in before.files - now)
        return sorted(path.name for path in gone if not (is_complete and path.parent.parent.name == "pool"))

    def compare(self, project: Project) -> None:
        """Raise SoakError if an output of the stage differs from that of the undisturbed run."""
        for path in project.declared(self.stage):
            theirs = self.finished.root / path.relative_to(project.root)
            names = {*_names(path, project.root), *_names(theirs, self.finished.root)}
            if not names:
                raise SoakError(f"{path.relative_to(project.root)} is missing in both runs")
            for name in sorted(names):
                _require_equal(name, project.root / name, self.finished.root / name)
        self.counts["equal outputs"] += 1

    def is_ended(self, project: Project) -> bool:
        """Whether the training is over, so that only its results are still written; of `evaluate`: False."""
        if self.stage not in TRAINED:
            return False
        num_steps = YAML(typ="safe").load(project.root / "params.yaml")[self.stage]["num_steps"]
        return self.progress(project).num_done == num_steps


def any_moment(run: Run, _project: Project, process: StageProcess) -> None:
    """Wait until a random moment of a run from the first step."""
    process.wait(run.rng.uniform(0.2, _SECONDS.get(run.stage, 6.0)))


def after_saving(run: Run, project: Project, process: StageProcess) -> None:
    """Wait until the stage has saved one to three times, a checkpoint or, of `evaluate`, a cache, and a little more."""
    _wait_for_saved(project, run.stage, process)
    saved, num_more = _saved(project, run.stage), run.rng.randrange(MAX_SAVED_MORE)
    while process.poll() is None and num_more:
        if (now := _saved(project, run.stage)) != saved:
            saved, num_more = now, num_more - 1
        time.sleep(POLL_SECONDS)
    process.wait(run.rng.uniform(0.0, MAX_WAIT_SECONDS))


def while_saving(run: Run, project: Project, process: StageProcess) -> None:
    """Wait until a checkpoint or, of `evaluate`, a cache is being written, after others."""
    _wait_for_saved(project, run.stage, process)
    old = set(partial(project, run.stage))
    skipped, seen = run.rng.randrange(3), set[Path]()
    while process.poll() is None and len(seen) <= skipped:
        seen.update(set(partial(project, run.stage)) - old)
        time.sleep(0.0003)


def find_checkpoint(project: Project, stage: str) -> Path | None:
    """The last checkpoint, if there is one."""
    return next(project.root.glob(f".checkpoints/{stage}/*/{stage}.pt"), None)


def caches(project: Project, stage: str) -> list[Path]:
    """The complete caches that the stage reads."""
    folders = [name for name, reader in READERS.items() if reader == stage]
    found = [path for name in folders for path in project.root.glob(f".checkpoints/{name}/*/**/*.*")]
    whole = (path for path in found if path.parent.name[0] != ".")  # others are still being written
    return sorted(path for path in whole if path.is_file() and path.suffix != ".pt")


def partial(project: Project, stage: str) -> list[Path]:
    """The folders of checkpoints or, of `evaluate`, caches that are being written, or were when it was killed."""
    name = f".{stage}*-*" if stage in TRAINED else ".*-*"
    return list(project.root.glob(f".checkpoints/{stage}/*/{name}"))


def is_saved(project: Project, stage: str) -> bool:
    """Whether there is a checkpoint or, of `evaluate`, a cache."""
    return bool(find_checkpoint(project, stage) if stage in TRAINED else caches(project, stage))


def first_step(output: str, stage: str) -> int | None:
    """The step at which the progress bar of the training began."""
    found = re.search(rf"{stage}: +\d+%\|[^|]*\| (\d+)/\d+ ", output)
    return int(found[1]) if found else None


def require_message(output: str, *words: str) -> str:
    """The message without its first word: one line, the last one, with these words."""
    line = output.strip().rpartition("\n")[2]
    if "Traceback" in output or not line.startswith(("error: ", "interrupted: ")):
        raise SoakError(f"no message: {output[-1500:]}")
    if lacking := [word for word in words if word not in line]:
        raise SoakError(f"the message has no words {lacking}: {line[:500]}")
    return line.partition(": ")[2]


def require_interrupted(run: Run, number: signal.Signals, status: int, output: str) -> None:
    """Raise SoakError unless the stage ended after the signal as documented.

    SIGTERM is saved from in a training only; it ends any other process as the system does.
    """
    if run.stage not in TRAINED and number == signal.SIGTERM:
        if status != -number:
            raise SoakError(f"after SIGTERM it ended with status {status}: {output[-1500:]}")
    elif status != 1 or require_message(output) != INTERRUPTED.partition(": ")[2]:
        raise SoakError(f"after {number.name} it ended with status {status}: {output[-1500:]}")


def _wait_for_saved(project: Project, stage: str, process: StageProcess) -> None:
    while process.poll() is None and not is_saved(project, stage):
        time.sleep(0.01)


def _saved(project: Project, stage: str) -> frozenset[tuple[Path, int]]:
    """The checkpoint or, of `evaluate`, the caches, with their inodes."""
    paths = project.root.glob(f".checkpoints/{stage}/*/{stage}.pt") if stage in TRAINED else caches(project, stage)
    found = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # replaced in between
            found.add((path, path.stat().st_ino))
    return frozenset(found)


def _require_equal(name: Path, ours: Path, theirs: Path) -> None:
    if not ours.is_file() or not theirs.is_file():
        raise SoakError(f"{name} is missing")
    if (found := _content(ours)) != (expected := _content(theirs)):
        keys = sorted(key for key, _ in found.items() ^ expected.items()) if isinstance(found, dict) else ""
        raise SoakError(f"{name} differs from that of the undisturbed run {keys}")


def _names(path: Path, root: Path) -> list[Path]:
    files = [path] if path.is_file() else path.rglob("*")
    return [file.relative_to(root) for file in files if file.is_file()]


def _content(file: Path) -> Any:
    """The content without what is measured."""
    if file.suffix == ".json":
        values = json.loads(file.read_text())
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if not key.endswith(MEASURED)}
    if file.name == "sweep.tsv":
        rows = [line.split("\t") for line in file.read_text().splitlines()]
        timed = {column for column, name in enumerate(rows[0]) if name.endswith(MEASURED)}
        return [[cell for column, cell in enumerate(row) if column not in timed] for row in rows]
    return file.read_bytes()
