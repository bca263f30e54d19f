"""Trials on disks that are full, and under a limit on the size of files."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.project import Project
from tests.soak.trial import Progress, Run, SoakError, any_moment, partial, require_message, while_saving

MAX_OPENS = 40
LIMITS_KIB = (0, 1, 4, 16, 64, 256)
FREE_FOR_CHECKS = 1_200_000_000
"""Bytes of the file system that is filled: stages ask for half a gigabyte before they start."""
MAX_LEFT = 8192
"""At most so many bytes are left when it is full."""
KEPT = "Nothing finished is lost"
"""Words of the message for a disk that cannot be written, which says what is kept and how to go on."""


def full_disk_at_each_open(run: Run) -> None:
    """The disk is full at the first file that is opened for writing, in the next run at the second, and so on."""
    project = run.project()
    for number in range(1, MAX_OPENS + 1):
        before = run.progress(project)
        status, output = run.start(project, SANDBOX_DISK_FULL_AT=str(number)).finish()
        if not status:
            break
        require_written(run, project, require_message(output, os.strerror(errno.ENOSPC), KEPT))
        require_kept(run, project, before)
        run.counts["full at an open"] += 1
    if not run.counts["full at an open"]:
        raise SoakError("the stage wrote nothing at the first file that it opened, and ended well")
    run.end(project) if status else run.compare(project)


def file_size_limit(run: Run) -> None:
    """Writing fails within a file, also in libraries that are not Python: at longer and longer files."""
    project = run.project()
    for kib in LIMITS_KIB:
        before = run.progress(project)
        status, output = run.start(project, max_file_bytes=1024 * kib).finish()
        if not status:
            break
        require_written(run, project, require_message(output, os.strerror(errno.EFBIG), KEPT))
        require_kept(run, project, before)
        run.counts["file too large"] += 1
    if not run.counts["file too large"]:
        raise SoakError("the stage ended well though it could write no byte")
    run.end(project) if status else run.compare(project)


def filled_tmpfs(run: Run) -> None:
    """A real file system is filled, twice while the stage saves and once at any moment, and emptied again."""
    run.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FREE_FOR_CHECKS}", "tmpfs", run.root]
    if subprocess.run(mount, check=False).returncode:
        raise SoakError("a file system cannot be mounted; run the soak as root for this trial")
    try:
        _fill_three_times(Run(run.trial, run.finished, run.root / "trial", run.rng, run.counts), run.root)
    finally:
        unmount(run.root)


def _fill_three_times(run: Run, mounted: Path) -> None:
    moments = [while_saving, while_saving, any_moment]
    for project in run.attempts():
        while moments:
            before = run.progress(project)
            process = run.start(project)
            moments[0](run, project, process)
            with _filled(mounted, run.rng.randrange(MAX_LEFT)):
                status, output = process.finish()
            if not status:
                break
            message = require_message(output, "free some disk")  # refused before the first step, or at a write
            require_written(run, project, message)
            require_kept(run, project, before)
            run.counts["file system full"] += 1
            del moments[0]
        if not moments:
            run.end(project)
            return
        run.compare(project)


def require_written(run: Run, project: Project, message: str) -> None:
    """Raise SoakError unless the message begins with an output, a checkpoint or a cache of the stage."""
    name = message.partition(": ")[0]
    path = project.root / name
    places = [*project.declared(run.stage), *(place for place in (project.root / ".checkpoints").glob("*/*"))]
    is_partial = any(part.startswith(".") for part in path.parts[-2:])
    if is_partial or not any(path.is_relative_to(place) for place in places):
        raise SoakError(f"the message names no file that the stage writes: {message[:300]}")


def require_kept(run: Run, project: Project, before: Progress) -> None:
    """Raise SoakError if the stage lost what it had saved before, or left a file or folder half-written."""
    now = run.progress(project)
    if before.num_done is not None and (now.num_done is None or now.num_done < before.num_done):
        raise SoakError(f"its checkpoint was of step {before.num_done}, and is now of step {now.num_done}")
    if lost := run.lost(project, before):
        raise SoakError(f"it lost caches: {lost}")
    outputs = [path for each in project.declared(run.stage) for path in each.parent.glob(f".{each.stem}-*")]
    if left := [path.name for path in [*partial(project, run.stage), *outputs]]:
        raise SoakError(f"it left half-written files: {left}")


def unmount(folder: Path) -> None:
    """Remove the file system that a trial has mounted at the folder, if there is one."""
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


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
