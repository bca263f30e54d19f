"""`make soak`: kills, full disks and damaged files in the tiny pipeline; each stage must still end as if undisturbed.

    python -m tests.soak --minutes 60 --folder .soak --stages teacher student add evaluate

Each trial disturbs one stage in a copy of a finished project (see tests/soak_trials.py) and then runs it to its end.
Its outputs must be those of the undisturbed run, byte for byte (of `evaluate`: without timings). Or it must refuse with
a line `error: ...` that names a file and the remedy, and end so once the remedy is followed.

`trials.jsonl` in the folder has a line per trial; a later call skips the trials in it. The status is 1 if a trial
failed, 2 if trials are missing, because the time was over, and 0 if all that is demanded has been done.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from tests.project import ROOT, Project
from tests.soak_process import preload
from tests.soak_trials import KILLS, STAGES, TRAINED, Trial, leaves_caches, run_trial

MIN_COUNTS = {"kills": 30, "kills after a checkpoint": 15, "kills while a file was written": 5}
"""What `make soak` must have done at least; more kills are tried until it has."""
LONGER = {"student.num_steps": 40, "student.knowledge_steps": 12, "add.num_steps": 40}
"""Changes of tests/project.py's tiny parameters: enough steps for several disturbances after a checkpoint."""
MIN_KILLS_PER_STAGE = 4
"""The least number of kills of each stage that is soaked."""

Row = Mapping[str, Any]


def main() -> None:
    """Run trials until all are done or the time is over, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, default=Path(".soak"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    give_up_at = time.monotonic() + 60 * options.minutes
    folder = options.folder.resolve()
    finished = undisturbed(folder)
    preload()
    log = folder / "trials.jsonl"
    is_complete = False
    for trial in trials(finished, options.stages, log):
        if trial is None:
            is_complete = True
            break
        if time.monotonic() > give_up_at:
            break
        started = time.monotonic()
        row = run_trial(trial, finished, folder / "trial") | {"seconds": round(time.monotonic() - started)}
        with log.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    rows = read_rows(log)
    print(table(rows))
    has_failed = any(row["failure"] for row in rows)
    if not is_complete:
        print(f"the time is over: run it again to go on with the trials that are missing ({folder} keeps the others)")
    sys.stdout.flush()
    os._exit(1 if has_failed else 0 if is_complete else 2)  # without the complaints of libraries that only forks use


def undisturbed(folder: Path) -> Project:
    """The project after an undisturbed `dvc repro evaluate`, from an earlier call if it is there."""
    root = folder / "finished"
    if (folder / "is_finished").exists():
        return Project.existing(root)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_base = (
        "import sys, pathlib; from tests.conftest import save_tiny_pipeline as save; save(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", write_base, folder / "base"], cwd=ROOT, check=True)
    project = Project(root, folder / "base", LONGER)
    project.dvc("repro", "evaluate")
    project.commit()
    (folder / "is_finished").touch()
    return project


def trials(finished: Project, stages: Sequence[str], log: Path) -> Iterator[Trial | None]:
    """The trials that are not in the log: each kind in turn, by stages in this order; kills until enough; then None."""
    done = {row["trial"] for row in read_rows(log)}
    for trial in (trial for turn in zip_longest(*_planned(finished, stages)) for trial in turn if trial is not None):
        if trial.name not in done:
            yield trial
    for number in count(1):
        rows = read_rows(log)
        lacking = [stage for stage in stages if killed(rows, stage) < MIN_KILLS_PER_STAGE]
        if not lacking and all(counts(rows)[name] >= least for name, least in MIN_COUNTS.items()):
            yield None
        more = Trial("kill", (lacking or stages)[number % len(lacking or stages)], detail=f"more {number}")
        if more.name not in done:
            yield more


def _planned(finished: Project, stages: Sequence[str]) -> Iterator[list[Trial]]:
    yield [Trial("kill", stage, detail=str(number)) for number in range(2) for stage in stages]
    for kind in ("terminate", "ctrl_c", "dvc_killed", "file_size_limit", "filled_tmpfs", "full_disk_at_each_open"):
        yield [Trial(kind, stage) for stage in stages]
    for how in ("truncated", "flipped"):
        yield [Trial("damaged_caches", stage, detail=how) for stage in stages if leaves_caches(finished, stage)]
    yield [Trial("damaged_checkpoints", stage) for stage in stages if stage in TRAINED]
    yield [Trial("two_at_once", "add")] if "add" in stages else []


def read_rows(log: Path) -> list[dict[str, Any]]:
    """The trials in the log."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def killed(rows: Sequence[Row], stage: str) -> int:
    """The number of kills of this stage."""
    return sum(row["counts"].get("kills", 0) for row in rows if row["stage"] == stage and row["kind"] in KILLS)


def counts(rows: Sequence[Row]) -> Counter[str]:
    """The sums of what the trials did."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    return total


def table(rows: Sequence[Row]) -> str:
    """For each kind of trial: trials by stage, failures, and what they did; then what is demanded at least."""
    lines = [f"{'kind':24} {'trials':>6} {'equal':>5} {'failed':>6}  what was done"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        failed = sum(bool(row["failure"]) for row in own)
        by_stage = ", ".join(f"{stage} {number}" for stage, number in Counter(row["stage"] for row in own).items())
        did = ", ".join(f"{number} {name}" for name, number in sorted(counts(own).items()))
        lines.append(f"{kind:24} {len(own):6} {len(own) - failed:5} {failed:6}  {did} ({by_stage})")
    total = counts(rows)
    lines += [f"{name}: {total[name]} of at least {least}" for name, least in MIN_COUNTS.items()]
    lines += [f"FAILED {row['trial']}: {row['failure']}" for row in rows if row["failure"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
