"""`make soak`: kills, full disks and damaged files in the tiny pipeline; each stage must still end as if undisturbed.

    python -m tests.soak --minutes 60 --folder .soak --stages teacher student add evaluate

Each trial disturbs one stage in a copy of a finished project and then runs it to its end. Its outputs must be those of
the undisturbed run, byte for byte (of `evaluate`: without timings). Or it must refuse with `error: ...`, and end so
once the file that it names is deleted. `trials.jsonl` in the folder has a line per trial; a later call goes on after
them.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import save_tiny_pipeline
from tests.project import DVC, Project

STAGES = ("teacher", "student", "add", "evaluate")
CHECKPOINTED = STAGES[:3]
MAX_RUNS = 4
"""Of one stage in one trial: the disturbed one, two that may refuse a file, and one that ends."""
TIMED = ("latency", "_ms", "seconds", "threads")


class SoakError(Exception):
    """A trial ended with other outputs, or with a traceback."""


def main() -> None:
    """Run trials until the time is over, then print the figures; status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, default=Path(".soak"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    give_up_at = time.monotonic() + 60 * options.minutes
    finished = undisturbed(options.folder.resolve(), options.stages)
    log = options.folder / "trials.jsonl"
    num_done = len(log.read_text().splitlines()) if log.exists() else 0
    for number, (kind, stage) in enumerate(trials(options.stages)):
        if number < num_done:
            continue
        if time.monotonic() > give_up_at:
            break
        outcome = run_trial(finished, options.folder.resolve() / "trial", kind, stage, seed=number)
        with log.open("a") as stream:
            stream.write(json.dumps({"number": number, "kind": kind, "stage": stage, "outcome": outcome}) + "\n")
        print(f"{number} {kind} {stage}: {outcome}", flush=True)
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for (kind, outcome), count in sorted(Counter((row["kind"], row["outcome"][:60]) for row in results).items()):
        print(f"{count:4} {kind:24} {outcome}")
    sys.exit(any(row["outcome"].startswith("FAILED") for row in results))


def undisturbed(folder: Path, stages: Sequence[str]) -> Project:
    """The project after an undisturbed `dvc repro` of these stages, from an earlier call if it is there."""
    root = folder / "finished"
    if (folder / "is_finished").exists():
        return Project.existing(root)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_tiny_pipeline(folder / "base")
    project = Project(root, folder / "base")
    project.dvc("repro", *stages)
    project.commit()
    (folder / "is_finished").touch()
    return project


def trials(chosen: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Kind and stage of the trials, without end: each kind in turn, on each of the chosen stages that it is for."""
    kinds: list[tuple[str, tuple[str, ...]]] = [
        ("kill_after_checkpoint", CHECKPOINTED),
        ("damaged_file", CHECKPOINTED),
        ("full_disk", STAGES),
        ("kill_while_saving", CHECKPOINTED),
        ("kill_any_time", STAGES),
        ("file_size_limit", STAGES),
        ("terminate", CHECKPOINTED),
        ("ctrl_c", CHECKPOINTED),
        ("dvc_killed", CHECKPOINTED),
        ("two_at_once", ("add",)),
    ]
    number = 0
    while True:
        for kind, possible in kinds:
            if stages := [stage for stage in possible if stage in chosen]:
                yield kind, stages[number % len(stages)]
        number += 1


def run_trial(finished: Project, root: Path, kind: str, stage: str, *, seed: int) -> str:
    """The outcome: how the stage was disturbed and how it ended, or `FAILED` and why."""
    for folder in root.parent.glob(f"{root.name}*/"):  # of the trial before
        shutil.rmtree(folder, ignore_errors=True)
    project = finished.copy(root)
    try:
        if kind == "two_at_once":
            return _two_at_once(project)
        project.forget(stage)
        what = DISTURBANCES[kind](project, stage, random.Random(seed))
        num_refusals = _run_to_end(project, stage)
        _compare(project, finished, stage)
    except (SoakError, AssertionError) as error:
        return f"FAILED {error}"
    return f"{what}; the outputs are equal" + (f" after {num_refusals} refusals" if num_refusals else "")


def _run_to_end(project: Project, stage: str) -> int:
    """The number of refusals before it ended; what a refusal says to delete is deleted."""
    for num_refusals in range(MAX_RUNS):
        status, output = _finish(_start(project, stage))
        if status == 0:
            return num_refusals
        _require_message(output)
        _follow(output, project.root)
    raise SoakError(f"it refused {MAX_RUNS} times: {output[-500:]}")


def _follow(output: str, root: Path) -> None:
    """Delete the file that the last message names, or the checkpoints next to it if it says so."""
    message = output[output.rindex("error: ") + len("error: ") :]
    path = root / message.partition(": ")[0]
    if not path.is_file():
        raise SoakError(f"the message names no file: {message[:300]}")
    for file in path.parent.glob("*.pt") if "*.pt files" in message else [path]:
        file.unlink()


def _require_message(output: str) -> None:
    if "Traceback" in output or not ("error: " in output or "interrupted: " in output):
        raise SoakError(f"no message: {output[-1500:]}")


def _start(project: Project, stage: str, **variables: str) -> "subprocess.Popen[str]":
    environment = {**project.environment(), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=project.root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate()
    return process.returncode, output


def _compare(project: Project, finished: Project, stage: str) -> None:
    for path in project.declared(stage):
        for file in [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file()):
            name = file.relative_to(project.root)
            if _content(file) != _content(finished.root / name):
                raise SoakError(f"{name} differs from that of the undisturbed run")
        if not path.exists():
            raise SoakError(f"{path.relative_to(project.root)} is missing")


def _content(file: Path) -> Any:
    """The content without timings and thread counts, which differ between any two runs."""
    if file.suffix == ".json":
        values = json.loads(file.read_text())
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if not any(word in key for word in TIMED)}
    if file.name == "sweep.tsv":
        rows = [line.split("\t") for line in file.read_text().splitlines()]
        timed = {column for column, name in enumerate(rows[0]) if "latency" in name}
        return [[cell for column, cell in enumerate(row) if column not in timed] for row in rows]
    return file.read_bytes()


def _kill_any_time(project: Project, stage: str, rng: random.Random) -> str:
    process = _start(project, stage)
    seconds = rng.uniform(0.5, 25.0)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return f"killed after {seconds:.1f} s"


def _kill_after_checkpoint(project: Project, stage: str, rng: random.Random) -> str:
    process = _start(project, stage)
    _wait_for_checkpoint(project, stage, process)
    time.sleep(rng.uniform(0.0, 2.0))
    _signal(process, signal.SIGKILL)
    process.communicate()
    return "killed after a checkpoint"


def _kill_while_saving(project: Project, stage: str, rng: random.Random) -> str:
    process = _start(project, stage)
    skipped = rng.randrange(3)
    _wait_for_checkpoint(project, stage, process)
    seen: set[Path] = set()
    while process.poll() is None and len(seen) <= skipped:
        seen.update(project.root.glob(f".checkpoints/{stage}/*/.*-*"))
    _signal(process, signal.SIGKILL)
    process.communicate()
    return "killed while a file was written" if len(seen) > skipped else "not killed: it ended first"


def _terminate(project: Project, stage: str, rng: random.Random) -> str:
    return _interrupt(project, stage, rng, signal.SIGTERM)


def _ctrl_c(project: Project, stage: str, rng: random.Random) -> str:
    return _interrupt(project, stage, rng, signal.SIGINT)


def _interrupt(project: Project, stage: str, rng: random.Random, number: signal.Signals) -> str:
    process = _start(project, stage)
    _wait_for_checkpoint(project, stage, process)
    time.sleep(rng.uniform(0.0, 2.0))
    _signal(process, number)
    status, output = _finish(process)
    if status not in (0, -number):  # SIGTERM simply ends a process that is not training at the moment
        _require_message(output)
    return f"{number.name} after a checkpoint"


def _dvc_killed(project: Project, stage: str, rng: random.Random) -> str:
    process = project.start(*DVC, "repro", stage)
    _wait_for_checkpoint(project, stage, process)
    time.sleep(rng.uniform(0.0, 1.0))
    process.kill()
    process.communicate()  # returns when the stage has closed its output too
    return "dvc killed after a checkpoint"


def _full_disk(project: Project, stage: str, rng: random.Random) -> str:
    """From a random file on, none can be opened for writing."""
    number = rng.randrange(1, 60)
    status, output = _finish(_start(project, stage, SANDBOX_DISK_FULL_AT=str(number)))
    if status:
        _require_message(output)
    return f"disk full from file {number} on" if status else "not disturbed: it wrote fewer files"


def _file_size_limit(project: Project, stage: str, rng: random.Random) -> str:
    """Writing fails within a file, also in libraries that are not Python."""
    kib = rng.choice([1, 4, 16, 64, 256])
    environment = project.environment()
    command = f"ulimit -f {kib}; exec {sys.executable} -m stages.{stage}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=project.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        _require_message(done.stdout)
    return f"files of at most {kib} KiB" if done.returncode else "not disturbed: its files are smaller"


def _damaged_file(project: Project, stage: str, rng: random.Random) -> str:
    """One file under .checkpoints of the interrupted stage is truncated, or one of its bits is flipped."""
    _interrupt(project, stage, rng, signal.SIGTERM)
    files = [path for path in project.root.glob(".checkpoints/**/*") if path.is_file() and path.stat().st_size]
    own = [path for path in files if path.is_relative_to(project.root / ".checkpoints" / stage)]
    path = rng.choice(sorted(own if own and rng.random() < 0.7 else files))
    content = bytearray(path.read_bytes())
    how = rng.choice(["truncated", "flipped", "emptied"])
    if how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.unlink()  # it may be a hard link
    path.write_bytes(content if how == "flipped" else content[: len(content) // 2 if how == "truncated" else 0])
    return f"{path.relative_to(project.root / '.checkpoints').parts[0]}/*/{path.suffix} {how}"


def _two_at_once(project: Project) -> str:
    """Two experiments at once write what each writes alone."""
    locked = []
    for jobs in ("2", "1"):
        twin = project.copy(project.root.with_name(f"trial_{jobs}"))
        twin.dvc("exp", "run", "--queue", "-n", "soak", "-S", "add.adv_weight=0.05,0.1", "add")
        twin.dvc("queue", "start", "--jobs", jobs)
        while "Queued" in (status := twin.dvc("queue", "status")) or "Running" in status:
            time.sleep(1)
        if status.count("Success") != 2:
            raise SoakError(f"an experiment failed: {status}")
        hashes = twin.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
        locked.append(sorted(twin.git("show", f"{name}:dvc.lock") for name in hashes if name.endswith(("-1", "-2"))))
        shutil.rmtree(twin.root)
        shutil.rmtree(twin.log_dir)
    if locked[0] != locked[1] or not locked[0]:
        raise SoakError("two experiments at once differ from one after the other")
    return "two experiments at once; the outputs are equal"


def _wait_for_checkpoint(project: Project, stage: str, process: "subprocess.Popen[str]") -> None:
    project.wait_for(f".checkpoints/{stage}/*/{stage}.pt", process)


def _signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


DISTURBANCES: dict[str, Callable[[Project, str, random.Random], str]] = {
    "kill_after_checkpoint": _kill_after_checkpoint,
    "damaged_file": _damaged_file,
    "full_disk": _full_disk,
    "kill_while_saving": _kill_while_saving,
    "kill_any_time": _kill_any_time,
    "file_size_limit": _file_size_limit,
    "terminate": _terminate,
    "ctrl_c": _ctrl_c,
    "dvc_killed": _dvc_killed,
}


if __name__ == "__main__":
    main()
