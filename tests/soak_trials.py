"""The trials of `make soak`: each disturbs one stage of a copy of a finished project, then runs it to its end."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.project import DVC, Project
from tests.soak_process import StageProcess

STAGES = ("teacher", "student", "add", "evaluate")
TRAINED = STAGES[:3]
"""The stages that have checkpoints."""
READERS = {"teacher": "teacher", "student": "student", "pool": "student", "add": "add", "evaluate": "evaluate"}
"""The stage that reads the caches in a folder of .checkpoints."""
KILLS = ("kill", "dvc_killed")
MAX_OPENS = 40
MEASURED = ("latency", "_ms", "seconds", "threads", "speedup", "per_second", "peak_")
"""Parts of the names of metrics that differ between any two runs: times, and the memory of the process."""
_SECONDS: dict[str, float] = {}
"""How long each stage took when it last ran to its end."""
FREE_FOR_CHECKS = 1_200_000_000
"""Bytes of the file system that is filled: stages ask for half a gigabyte before they start."""


class SoakError(Exception):
    """A trial ended with other outputs, or with a traceback."""


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


def run_trial(trial: Trial, finished: Project, root: Path) -> dict[str, Any]:
    """The row for the log: what was done, and why it failed, or "" if the outputs were equal in the end.

    The project of a trial that failed is kept in the folder `failed`.
    """
    for folder in root.parent.glob(f"{root.name}*/"):  # of the trial before
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)
    counts: Counter[str] = Counter()
    failure = ""
    try:
        TRIALS[trial.kind](_Run(trial, finished, root, random.Random(trial.name), counts))
    except Exception as error:  # noqa: BLE001 (an error of the soak itself is a failure too, and the others go on)
        failure = f"{type(error).__name__}: {error}"
        if root.exists() and not root.is_mount():
            shutil.copytree(
                root, root.parent / "failed" / trial.name.replace(" ", "_"), dirs_exist_ok=True, symlinks=True
            )
    return {"trial": trial.name, "kind": trial.kind, "stage": trial.stage, "counts": counts, "failure": failure}


@dataclass(frozen=True)
class _Run:
    """One trial's project, randomness, and counts of what it did."""

    trial: Trial
    finished: Project
    root: Path
    rng: random.Random
    counts: "Counter[str]"

    @property
    def stage(self) -> str:
        return self.trial.stage

    def project(self, *, keeps_caches: bool = False) -> Project:
        """A copy of the finished project in which the stage has not run."""
        project = self.finished.copy(self.root)
        caches = [name for name, reader in READERS.items() if reader == self.stage]
        kept = self.root.parent / f"{self.root.name}_kept"
        if keeps_caches:
            shutil.copytree(project.root / ".checkpoints", kept)
        project.forget(self.stage)
        for name in caches:
            shutil.rmtree(project.root / ".checkpoints" / name, ignore_errors=True)
        if keeps_caches:
            shutil.copytree(kept, project.root / ".checkpoints", dirs_exist_ok=True)
        return project

    def start(self, project: Project, **variables: str) -> StageProcess:
        """The stage, in a process group of its own."""
        return StageProcess(project, self.stage, variables=variables)

    def end(self, project: Project) -> None:
        """Run the stage to its end without disturbance, in which it may refuse nothing, and compare its outputs."""
        started = time.monotonic()
        status, output = self.start(project).finish()
        _SECONDS[self.stage] = time.monotonic() - started
        if status:
            raise SoakError(f"it ended with status {status}: {output[-1500:]}")
        self.compare(project)

    def compare(self, project: Project) -> None:
        """Raise SoakError if an output of the stage differs from that of the undisturbed run."""
        for path in project.declared(self.stage):
            for name in sorted(
                {
                    *_names(path, project.root),
                    *_names(self.finished.root / path.relative_to(project.root), self.finished.root),
                }
            ):
                ours, theirs = project.root / name, self.finished.root / name
                if not ours.is_file() or not theirs.is_file():
                    raise SoakError(f"{name} is missing")
                if (found := _content(ours)) != (expected := _content(theirs)):
                    keys = sorted(key for key, _ in found.items() ^ expected.items()) if ours.suffix == ".json" else ""
                    raise SoakError(f"{name} differs from that of the undisturbed run {keys}")
        self.counts["equal outputs"] += 1


def leaves_caches(finished: Project, stage: str) -> bool:
    """Whether the stage left anything in a folder of .checkpoints that it reads again."""
    folders = {path.name for path in (finished.root / ".checkpoints").iterdir()} - {"inputs"}
    assert folders <= set(READERS), f"the soak does not know which stage reads {folders - set(READERS)}"
    return any(READERS[name] == stage for name in folders)


def _kill(run: _Run) -> None:
    """Kill the stage five times: at random moments, after a checkpoint, and while a file is written."""
    project = run.project()
    moments = [_any_moment, _while_saving, _any_moment, _after_checkpoint, _while_saving]
    for wait in moments:
        old = set(_partial(project, run.stage))
        process = run.start(project)
        wait(run, project, process)
        has_checkpoint = bool(_saved(project, run.stage))
        process.signal(signal.SIGKILL)
        status, output = process.finish()
        if status == 0:
            run.counts["not killed, it ended first"] += 1
            break
        if status != -signal.SIGKILL:
            raise SoakError(f"it ended before it was killed, with status {status}: {output[-1500:]}")
        run.counts["kills"] += 1
        run.counts["kills after a checkpoint"] += has_checkpoint
        run.counts["kills while a file was written"] += bool(set(_partial(project, run.stage)) - old)
    run.end(project)


def _any_moment(run: _Run, _project: Project, process: StageProcess) -> None:
    process.wait(run.rng.uniform(0.2, _SECONDS.get(run.stage, 6.0)))


def _after_checkpoint(run: _Run, project: Project, process: StageProcess) -> None:
    _wait_for_saved(project, run.stage, process)
    process.wait(run.rng.uniform(0.0, 2.0))


def _while_saving(run: _Run, project: Project, process: StageProcess) -> None:
    _wait_for_saved(project, run.stage, process)
    old = set(_partial(project, run.stage))
    skipped, seen = run.rng.randrange(3), set[Path]()
    while process.poll() is None and len(seen) <= skipped:
        seen.update(set(_partial(project, run.stage)) - old)
        time.sleep(0.0003)


def _terminate(run: _Run) -> None:
    _interrupt(run, signal.SIGTERM)


def _ctrl_c(run: _Run) -> None:
    _interrupt(run, signal.SIGINT)


def _interrupt(run: _Run, number: signal.Signals) -> None:
    project = run.project()
    process = run.start(project)
    _after_checkpoint(run, project, process)
    process.signal(number)
    status, output = process.finish()
    if status not in (0, -number):  # SIGTERM simply ends a process that is not training at the moment
        _require_message(output)
    run.counts[f"{number.name}"] += status != 0
    run.end(project)


def _dvc_killed(run: _Run) -> None:
    project = run.project()
    process = project.start(*DVC, "repro", "--single-item", run.stage)
    while process.poll() is None and not _is_saved(project, run.stage):
        time.sleep(0.02)
    process.kill()
    process.communicate()  # returns when the stage has closed its output too
    run.counts["dvc killed"] += 1
    run.end(project)


def _full_disk_at_each_open(run: _Run) -> None:
    """The disk is full at the first file that is opened for writing, in the next run at the second, and so on."""
    project = run.project()
    for number in range(1, MAX_OPENS):
        status, output = run.start(project, SANDBOX_DISK_FULL_AT=str(number)).finish()
        if not status:
            break
        _require_message(output)
        run.counts["full at an open"] += 1
    run.end(project)


def _file_size_limit(run: _Run) -> None:
    """Writing fails within a file, also in libraries that are not Python: at longer and longer files."""
    project = run.project()
    for kib in (0, 1, 4, 16, 64, 256):
        status, output = StageProcess(project, run.stage, max_file_bytes=1024 * kib).finish()
        if not status:
            break
        _require_message(output)
        run.counts["file too large"] += 1
    run.end(project)


def _filled_tmpfs(run: _Run) -> None:
    """A real file system is filled while the stage saves, three times, and emptied again."""
    run.root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FREE_FOR_CHECKS}", "tmpfs", run.root], check=False)
    if mounted.returncode:
        run.counts["skipped: mounting needs root"] += 1
        return
    try:
        inside = _Run(run.trial, run.finished, run.root / "trial", run.rng, run.counts)
        project = inside.project()
        for moment in (_while_saving, _while_saving, _any_moment):
            process = inside.start(project)
            moment(inside, project, process)
            with _filled(run.root, run.rng.randrange(16_384)):
                status, output = process.finish()
            if not status:
                run.counts["not disturbed, it wrote no more"] += 1
                break
            _require_message(output)
            run.counts["file system full"] += 1
        inside.end(project)
    finally:
        _unmount(run.root)


def _damaged_caches(run: _Run) -> None:
    """All caches of the stage are damaged at once; it must name them one after the other, or not need them."""
    project = run.project(keeps_caches=True)
    files = [path for path in _saved(project, run.stage) if path.stat().st_size]
    for path in files:
        _damage(path, run.trial.detail, run.rng)
    left = {path: path.read_bytes() for path in files}
    run.counts[f"caches {run.trial.detail}"] += len(files)
    for _ in range(len(files) + 1):
        status, output = run.start(project).finish()
        if not status:
            break
        run.counts["refusals"] += 1
        left.pop(_follow(output, project.root), None)
    run.counts["caches made again or not read"] += len(left)
    run.end(project)


def _damaged_checkpoints(run: _Run) -> None:
    """Each file of an interrupted training is truncated and flipped in turn, everything else being whole."""
    project = run.project()
    process = run.start(project)
    while process.poll() is None and not any(project.root.glob(f".checkpoints/{run.stage}/*/{run.stage}.previous.pt")):
        time.sleep(0.01)
    process.signal(signal.SIGTERM)
    _require_message(process.finish()[1])
    interrupted = project.copy(run.root.with_name(f"{run.root.name}_interrupted"))
    files = [path.relative_to(project.root) for path in _saved(project, run.stage) if path.suffix == ".pt"]
    for name in files:
        for how in ("truncated", "flipped", "emptied"):
            shutil.rmtree(project.root)
            shutil.rmtree(project.log_dir)
            project = interrupted.copy(run.root)
            _damage(project.root / name, how, run.rng)
            status, output = run.start(project).finish()
            run.counts[f"checkpoint files {how}"] += 1
            if status:
                _follow(output, project.root)
                run.counts["refusals"] += 1
                run.end(project)
                continue
            run.counts["went on from the checkpoint before"] += "goes on from the checkpoint before it" in output
            run.compare(project)


def _two_at_once(run: _Run) -> None:
    """Two experiments at once write what each writes alone."""
    locked = []
    for jobs in ("2", "1"):
        twin = run.finished.copy(run.root.with_name(f"{run.root.name}_{jobs}"))
        twin.dvc("exp", "run", "--queue", "-n", "soak", "-S", "add.adv_weight=0.05,0.1", "add")
        twin.dvc("queue", "start", "--jobs", jobs)
        while "Queued" in (status := twin.dvc("queue", "status")) or "Running" in status:
            time.sleep(1)
        if status.count("Success") != 2:
            raise SoakError(f"an experiment failed: {status}")
        names = twin.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
        locked.append(sorted(twin.git("show", f"{name}:dvc.lock") for name in names if name.endswith(("-1", "-2"))))
        shutil.rmtree(twin.root)
        shutil.rmtree(twin.log_dir)
    if locked[0] != locked[1] or len(locked[0]) != 2:
        raise SoakError("two experiments at once differ from one after the other")
    run.counts["experiments at once"] += 2


def _follow(output: str, root: Path) -> Path:
    """Do what the message says: delete the file that it names, or the checkpoints next to it. Returns the file."""
    message = _require_message(output)
    path = root / message.partition(": ")[0]
    if not path.is_file():
        raise SoakError(f"the message names no file: {message[:300]}")
    if "delete " not in message:
        raise SoakError(f"the message names no remedy: {message[:300]}")
    for file in path.parent.glob("*.pt") if "*.pt files" in message else [path]:
        file.unlink()
    return path


def _require_message(output: str) -> str:
    """The last message, which must be one line and the last one."""
    line = output.strip().rpartition("\n")[2]
    if "Traceback" in output or not line.startswith(("error: ", "interrupted: ")):
        raise SoakError(f"no message: {output[-1500:]}")
    return line.partition(": ")[2]


def _damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.unlink()  # it may be a hard link
    path.write_bytes(content if how == "flipped" else content[: len(content) // 2 if how == "truncated" else 0])


def _saved(project: Project, stage: str) -> list[Path]:
    """The complete caches and checkpoints of the stage."""
    folders = [name for name, reader in READERS.items() if reader == stage]
    found = [path for name in folders for path in project.root.glob(f".checkpoints/{name}/*/*")]
    return sorted(path for path in found if not path.name.startswith(".") and path.name != "lock")


def _partial(project: Project, stage: str) -> list[Path]:
    """The folders of files that are being written, or were when the process was killed."""
    folders = [name for name, reader in READERS.items() if reader == stage]
    return [path for name in folders for path in project.root.glob(f".checkpoints/{name}/*/.*-*")]


def _is_saved(project: Project, stage: str) -> bool:
    """Whether there is a checkpoint or, of `evaluate`, a cache."""
    name = "*.safetensors" if stage == "evaluate" else f"{stage}.pt"
    return any(project.root.glob(f".checkpoints/{stage}/*/{name}"))


def _wait_for_saved(project: Project, stage: str, process: StageProcess) -> None:
    while process.poll() is None and not _is_saved(project, stage):
        time.sleep(0.01)


@contextmanager
def _filled(folder: Path, num_free: int) -> Iterator[None]:
    """Within the block, the file system that is mounted at `folder` has at most this many free bytes.

    It is made smaller, which takes milliseconds; a large file would take longer than the stage needs to save.
    """
    for _ in range(100):  # refused if the stage has written more in between
        if _resized(folder, shutil.disk_usage(folder).used + num_free):
            break
    else:
        raise SoakError("the file system cannot be filled")
    try:
        yield
    finally:
        assert _resized(folder, FREE_FOR_CHECKS)


def _resized(folder: Path, num_bytes: int) -> bool:
    command = ["mount", "-o", f"remount,size={max(num_bytes, 4096)}", folder]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _unmount(folder: Path) -> None:
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


def _names(path: Path, root: Path) -> list[Path]:
    files = [path] if path.is_file() else path.rglob("*")
    return [file.relative_to(root) for file in files if file.is_file()]


def _content(file: Path) -> Any:
    """The content without what is measured."""
    if file.suffix == ".json":
        values = json.loads(file.read_text())
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if not any(word in key for word in MEASURED)}
    if file.name == "sweep.tsv":
        rows = [line.split("\t") for line in file.read_text().splitlines()]
        timed = {column for column, name in enumerate(rows[0]) if "latency" in name}
        return [[cell for column, cell in enumerate(row) if column not in timed] for row in rows]
    return file.read_bytes()


TRIALS: dict[str, Callable[[_Run], None]] = {
    "kill": _kill,
    "terminate": _terminate,
    "ctrl_c": _ctrl_c,
    "dvc_killed": _dvc_killed,
    "full_disk_at_each_open": _full_disk_at_each_open,
    "file_size_limit": _file_size_limit,
    "filled_tmpfs": _filled_tmpfs,
    "damaged_caches": _damaged_caches,
    "damaged_checkpoints": _damaged_checkpoints,
    "two_at_once": _two_at_once,
}
