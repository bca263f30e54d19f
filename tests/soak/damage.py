"""Trials that damage what a stage reads again: its caches and checkpoints."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.project import Project
from tests.soak.process import POLL_SECONDS
from tests.soak.trial import Run, SoakError, caches, first_step, require_interrupted, require_message

MEASURED_TENSORS = (".ms", ".vram")
"""Ends of the names of tensors in a cache that differ between any two runs: latencies, and a GPU's memory."""
GOES_ON = "goes on from the checkpoint before it"
"""Words of the message when the last checkpoint is damaged and the one before it is used."""
NEVER = (0, 0)
"""A time of reading and of writing, in nanoseconds, older than any other: reading the file sets a new one."""


def damaged_caches(run: Run) -> None:
    """Each cache of the stage is damaged in turn, no other being damaged; the stage must refuse it by its name.

    The remedy of the message is followed, so that a later run computes the cache again. A cache that the stage did not
    refuse must have been written again, as it was, or not have been read, because another cache was made of it. It is
    damaged again when no other is left. All outputs, and in the end all caches, must be equal to the undisturbed run's.
    """
    project = run.project(keeps_caches=True)
    _require_times_of_reading(run.root.with_name(f"{run.root.name}_log"))
    files = caches(project, run.stage)
    unread = [path for path in files if not _is_noticed(run, project, path)]
    for path in set(files) - set(unread):
        path.unlink(missing_ok=True)
    for path in unread:
        damage(path, run.trial.detail, run.rng)
    while unread:
        status, output = run.start(project).finish()
        if not status:
            raise SoakError(f"it refused none of these damaged caches: {unread}")
        unread.remove(_refused(run, project, unread, output))
    run.end(project)
    if others := [path.name for path in files if not is_same_cache(path, _undisturbed(run, path))]:
        raise SoakError(f"in the end these caches are not what they were: {others}")


def _is_noticed(run: Run, project: Project, path: Path) -> bool:
    """Whether a run with this one damaged cache refuses it or writes it again; if not, the cache is restored."""
    damage(path, run.trial.detail, run.rng)
    os.utime(path, ns=NEVER)  # Linux sets it at the first reading after a file was written
    status, output = run.start(project).finish()
    if status:
        _refused(run, project, [path], output)
        return True
    run.compare(project)
    was_read = path.stat().st_atime_ns != NEVER[0]
    if is_same_cache(path, _undisturbed(run, path)):
        run.counts["damaged caches that it wrote again"] += 1
        return True
    if was_read:
        raise SoakError(f"it read {path.name}, which was damaged, and did not refuse it")
    run.counts["damaged caches that it read only without the others"] += 1
    path.unlink()
    shutil.copyfile(_undisturbed(run, path), path)
    return False


def _refused(run: Run, project: Project, damaged: list[Path], output: str) -> Path:
    """The damaged cache that this output refuses, which is deleted. Raises SoakError if it names another file."""
    named = follow(output, project.root)
    if named not in damaged:
        raise SoakError(f"it refused {named.name}, which was whole: {output[-500:]}")
    run.counts[f"caches {run.trial.detail}"] += 1
    return named


def damaged_checkpoints(run: Run) -> None:
    """Each file of an interrupted training is truncated, flipped and emptied in turn, everything else being whole.

    Then all of its checkpoints at once.
    """
    interrupted = _interrupted(run)
    last = run.progress(interrupted).num_done
    names = sorted(
        path.relative_to(interrupted.root) for path in interrupted.root.glob(f".checkpoints/{run.stage}/*/*.pt")
    )
    for how in ("truncated", "flipped", "emptied"):
        for damaged in [*([name] for name in names), [name for name in names if ".best" not in name.name]]:
            shutil.rmtree(run.root)
            shutil.rmtree(run.root.with_name(f"{run.root.name}_log"))
            project = interrupted.copy(run.root)
            for name in damaged:
                damage(project.root / name, how, run.rng)
            status, output = run.start(project).finish()
            run.counts[f"checkpoint files {how}"] += len(damaged)
            if status:
                follow(output, project.root)
                run.counts["refusals"] += 1
                run.end(project)
                continue
            _require_noticed(run, [name.name for name in damaged], how, output, last)
            run.compare(project)


def _undisturbed(run: Run, path: Path) -> Path:
    """The file of the undisturbed run for this one of the trial's project."""
    return run.finished.root / path.relative_to(run.root)


def _require_times_of_reading(folder: Path) -> None:
    """Raise SoakError if this file system does not note that a file was read."""
    path = folder / "probe"
    path.write_bytes(b"probe")
    os.utime(path, ns=NEVER)
    path.read_bytes()
    if path.stat().st_atime_ns == NEVER[0]:
        raise SoakError("this file system notes no times of reading (noatime); use another one for the soak's folder")


def _interrupted(run: Run) -> Project:
    """A project whose stage was interrupted when it had two checkpoints."""
    for project in run.attempts():
        process = run.start(project)
        while process.poll() is None and not any(
            project.root.glob(f".checkpoints/{run.stage}/*/{run.stage}.previous.pt")
        ):
            time.sleep(POLL_SECONDS)
        process.signal(signal.SIGTERM)
        status, output = process.finish()
        if status and not run.is_ended(project):
            require_interrupted(run, signal.SIGTERM, status, output)
            kept = run.root.with_name(f"{run.root.name}_interrupted")
            for folder in (kept, kept.with_name(f"{kept.name}_log")):
                shutil.rmtree(folder, ignore_errors=True)
            return project.copy(kept)
    raise AssertionError("attempts() raises an error")


def _require_noticed(run: Run, damaged: list[str], how: str, output: str, last: int | None) -> None:
    """Raise SoakError unless the training that went on has begun at a whole checkpoint."""
    if damaged == [f"{run.stage}.previous.pt"]:
        if first_step(output, run.stage) != last:
            raise SoakError(f"with a damaged checkpoint before the last it did not begin at {last}: {output[-1500:]}")
    elif GOES_ON in output:
        run.counts["went on from the checkpoint before"] += 1
    elif how == "flipped" and first_step(output, run.stage) == last:
        run.counts["flipped bits without meaning"] += 1  # such as padding; the outputs are compared all the same
    else:
        raise SoakError(f"it says nothing about {damaged}, {how}: {output[-1500:]}")


def is_same_cache(ours: Path, theirs: Path) -> bool:
    """Whether the bytes are equal or, if latencies are among the tensors, all that is not measured."""
    if ours.read_bytes() == theirs.read_bytes():
        return True
    try:
        ours_read, theirs_read = load_file(ours), load_file(theirs)
    except SafetensorError:
        return False
    measured = {name for name in theirs_read if name.endswith(MEASURED_TENSORS)}
    return (
        bool(measured)
        and ours_read.keys() == theirs_read.keys()
        and all(torch.equal(ours_read[name], theirs_read[name]) for name in ours_read.keys() - measured)
    )


def follow(output: str, root: Path) -> Path:
    """Do what the message says: delete the file that it names, or the checkpoints next to it. Returns the file."""
    message = require_message(output)
    path = root / message.partition(": ")[0]
    if not path.is_file():
        raise SoakError(f"the message names no file: {message[:300]}")
    if "delete " not in message:
        raise SoakError(f"the message names no remedy: {message[:300]}")
    for file in path.parent.glob("*.pt") if "*.pt files" in message else [path]:
        file.unlink()
    return path


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Flip one bit of the file, or keep the first half of it, or nothing."""
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.unlink()  # it may be a hard link
    path.write_bytes(content if how == "flipped" else content[: len(content) // 2 if how == "truncated" else 0])
