"""`make soak`: kills, full disks and damaged files in the tiny pipeline; each stage must still end as if undisturbed.

    python -m tests.soak --minutes 60 --folder .soak --stages teacher student add evaluate --kinds kill ctrl_c

Each trial disturbs one stage in a copy of a finished project and then runs it to its end. Its outputs must be those of
the undisturbed run, byte for byte (of `evaluate`: without timings). Or it must refuse with a line `error: ...` that
names a file and the remedy, and end so once the remedy is followed. A trial that disturbed nothing has failed.

`trials.jsonl` in the folder has a line per trial, and the last line of a trial counts. A later call repeats the trials
that have failed. It skips those that have passed, unless the code, parameters or inputs that they depend on have
changed since. The status is 1 if a trial failed, 2 if less was done than is demanded, and 0 otherwise.

Start it as root: the trial `filled_tmpfs` mounts a file system, and fails if it may not.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.project import ROOT, Project
from tests.soak import damage, disks, experiments, signals
from tests.soak.log import DEMANDS, Row, lacking, newest, project_key, read_rows, table, trial_key
from tests.soak.process import preload
from tests.soak.trial import READERS, STAGES, TRAINED, Run, Trial

TRIALS: dict[str, Callable[[Run], None]] = {
    "kill": signals.kill,
    "terminate": signals.terminate,
    "ctrl_c": signals.ctrl_c,
    "dvc_killed": signals.dvc_killed,
    "file_size_limit": disks.file_size_limit,
    "filled_tmpfs": disks.filled_tmpfs,
    "full_disk_at_each_open": disks.full_disk_at_each_open,
    "damaged_caches": damage.damaged_caches,
    "damaged_checkpoints": damage.damaged_checkpoints,
    "two_at_once": experiments.two_at_once,
}
SOAK_PARAMS: dict[str, Any] = {
    "sampling.teacher_steps": 2,
    "teacher.num_steps": 20,
    "student.num_steps": 24,
    "student.knowledge_steps": 9,
    "add.num_steps": 20,
    "evaluate.teacher_sweep": [4],
    "evaluate.student_sweep": [1, 4],
}
"""Changes of tests/project.py's tiny parameters: short, but with several checkpoints in each training."""
BY_CHANCE = ("kill",)
"""Kinds that demand more than each of their trials is sure to do, so that more trials are added."""
MAX_MORE = 5
"""How many rounds of them one call adds."""


@dataclass(frozen=True)
class Soak:
    """The undisturbed project and the log of the trials on copies of it."""

    folder: Path
    finished: Project
    stages: Sequence[str]
    kinds: Sequence[str]
    _keys: dict[tuple[str, str], str] = field(default_factory=dict)
    """What trials of a kind and stage depend on, from when it was first asked for: later edits are not what ran."""

    @property
    def log(self) -> Path:
        """The file with a line per trial."""
        return self.folder / "trials.jsonl"

    def key(self, kind: str, stage: str) -> str:
        """What the trials of this kind and stage depend on."""
        if (kind, stage) not in self._keys:
            module = f"{TRIALS[kind].__module__.replace('.', '/')}.py"
            self._keys[kind, stage] = trial_key(stage, self.finished, module)
        return self._keys[kind, stage]

    def all_rows(self) -> list[Row]:
        """The lines of the log that are of the present code, in order, with several of a trial that was repeated."""
        known = [row for row in read_rows(self.log) if row["kind"] in TRIALS]
        return [row for row in known if row["key"] == self.key(row["kind"], row["stage"])]

    def rows(self) -> list[Row]:
        """The last line of each trial, of the present code."""
        return newest(self.all_rows())

    def missing(self) -> list[Trial]:
        """The trials that have not passed, each kind in turn, by stages in this order."""
        passed = {row["trial"] for row in self.rows() if not row["failure"]}
        planned = [trial for turn in zip_longest(*self._planned()) for trial in turn if trial is not None]
        return [trial for trial in planned if trial.name not in passed]

    def more(self) -> Iterator[Trial]:
        """Further trials, as long as the log, to which each is added, has less than is demanded."""
        kinds = [kind for kind in self.kinds if kind in BY_CHANCE]
        for _ in range(MAX_MORE):
            for trial in lacking(self.rows(), self.stages, kinds):
                yield Trial(trial.kind, trial.stage, str(self._num_trials(trial)))

    def run(self, trial: Trial, number: int = 0) -> None:
        """Do the trial in the folder with this number, append its row to the log, and print it."""
        started = time.monotonic()
        row = run_trial(trial, self.finished, self.folder / f"trial_{number}")
        row |= {"seconds": round(time.monotonic() - started), "key": self.key(trial.kind, trial.stage)}
        with self.log.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(" ".join(f"{key}={value}" for key, value in row.items() if key not in ("kind", "key")), flush=True)

    def _num_trials(self, like: Trial) -> int:
        """How many trials of this kind and stage the log has; they are numbered from 0."""
        return sum((row["kind"], row["stage"]) == (like.kind, like.stage) for row in self.rows())

    def _planned(self) -> Iterator[list[Trial]]:
        for kind in self.kinds:
            match kind:
                case "kill":
                    yield [Trial(kind, stage, str(number)) for number in range(2) for stage in self.stages]
                case "damaged_caches":
                    for how in ("truncated", "flipped"):
                        yield [Trial(kind, stage, how) for stage in self.stages]
                case "damaged_checkpoints":
                    yield [Trial(kind, stage) for stage in self.stages if stage in TRAINED]
                case "two_at_once":
                    yield [Trial(kind, "add")] if "add" in self.stages else []
                case _:
                    yield [Trial(kind, stage) for stage in self.stages]


def main() -> None:
    """Run trials until all are done or the time is over, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time; a stage uses one core")
    parser.add_argument("--folder", type=Path, default=Path(".soak"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--kinds", nargs="+", choices=TRIALS, default=list(TRIALS))
    options = parser.parse_args()
    give_up_at = time.monotonic() + 60 * options.minutes
    folder = options.folder.resolve()
    soak = Soak(folder, undisturbed(folder), options.stages, options.kinds)
    num_old = len(read_rows(soak.log)) - len(soak.all_rows())
    if num_old:
        print(f"{num_old} trials in {soak.log} are of other code, parameters or inputs: they do not count", flush=True)
    preload()
    if not run_all(soak, options.jobs, give_up_at):
        print(f"the time is over: run it again for the trials that are missing; {soak.log} has the others")
    rows = soak.rows()
    print(table(rows, soak.stages, soak.kinds))
    for row in soak.all_rows():
        if row["failure"] and row not in rows:
            print(f"failed, then repeated: {row['trial']}: {row['failure']}")
    has_failed, is_short = any(row["failure"] for row in rows), lacking(rows, soak.stages, soak.kinds)
    sys.stdout.flush()
    os._exit(1 if has_failed else 2 if is_short else 0)  # without the complaints of libraries that only forks use


def run_all(soak: Soak, num_jobs: int, give_up_at: float) -> bool:
    """Do the missing trials, so many at a time, then more of what is lacking. Returns whether the time was enough.

    The processes are forked, so that each has the libraries that were imported before.
    """
    trials, context = soak.missing(), multiprocessing.get_context("fork")
    for trial in trials:
        soak.key(trial.kind, trial.stage)  # of the code that all processes run
    num_taken = context.Value("i", 0)

    def work(number: int) -> None:
        while time.monotonic() < give_up_at:
            with num_taken.get_lock():
                index = num_taken.value
                if index == len(trials):
                    return
                num_taken.value += 1
            soak.run(trials[index], number)

    workers = [context.Process(target=work, args=(number,)) for number in range(num_jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for trial in soak.more() if num_taken.value == len(trials) else ():
        if time.monotonic() > give_up_at:
            return False
        soak.run(trial)
    return num_taken.value == len(trials)


def undisturbed(folder: Path) -> Project:
    """The project after an undisturbed `dvc repro evaluate`, from an earlier call if nothing has changed since."""
    root, done = folder / "finished", folder / "finished_key"
    key = project_key(SOAK_PARAMS)
    if done.exists() and done.read_text() == key:
        return Project.existing(root)
    done.unlink(missing_ok=True)
    for path in (root, folder / "finished_log", folder / "base"):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_base = (
        "import sys, pathlib; from tests.conftest import save_tiny_pipeline as save; save(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", write_base, folder / "base"], cwd=ROOT, check=True)
    started = time.monotonic()
    project = Project(root, folder / "base", SOAK_PARAMS)
    project.dvc("repro", "evaluate")
    project.commit()
    assert {path.name for path in (root / ".checkpoints").iterdir()} - {"inputs"} <= set(READERS), "unknown caches"
    print(f"the undisturbed run took {time.monotonic() - started:.0f} s", flush=True)
    done.write_text(key)
    return project


def run_trial(trial: Trial, finished: Project, root: Path) -> dict[str, Any]:
    """The row for the log: what was done, and why it failed, or "" if the outputs were equal in the end.

    The project of a trial that failed is kept in the folder `failed`.
    """
    for folder in root.parent.glob(f"{root.name}*/"):  # of the trial before
        disks.unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)
    counts: Counter[str] = Counter()
    failure = ""
    try:
        TRIALS[trial.kind](Run(trial, finished, root, random.Random(trial.name), counts))
        if not any(counts[demand.count] for demand in DEMANDS if demand.kind == trial.kind):
            failure = "it disturbed nothing"
    except Exception as error:  # noqa: BLE001 (an error of the soak itself is a failure too, and the others go on)
        failure = f"{type(error).__name__}: {error}"
        if root.exists() and not root.is_mount():
            kept = root.parent / "failed" / trial.name.replace(" ", "_")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(root, kept, symlinks=True)
    return {"trial": trial.name, "kind": trial.kind, "stage": trial.stage, "counts": dict(counts), "failure": failure}


if __name__ == "__main__":
    main()
