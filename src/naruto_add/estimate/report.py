"""What a run of the pipeline needs: memory, time and disk, and what to change if it does not fit."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from naruto_add.estimate.disk import DISK_REMEDY, Disk
from naruto_add.estimate.machine import SUSTAINED_TFLOPS, Machine
from naruto_add.estimate.task import Task
from naruto_add.runtime.units import size_text

OVERHEAD_BYTES = 0.7e9
"""Assumed: the CUDA context, the workspace of convolutions, and fragmentation."""
ADVICE = (
    "to need less memory: raise accumulation_steps (it must divide batch_size), then set gradient_checkpointing: true, "
    "then optimizer.ema_on_cpu: true, then optimizer.name: adamw_8bit, in the section of the stage; "
    "for `draw`, lower evaluate.batch_size; or use a preset (naruto-add profile list)"
)


def estimate_lines(
    tasks: Iterable[Task], disk: Disk, machine: Machine, *, notes: Sequence[str], uncounted: Sequence[str]
) -> Iterator[str]:
    """Tables of memory and time by task, of disk by kind of file, and the remedies for what does not fit.

    `uncounted` is what the tasks need besides; if it is not empty, the memory and time are said to be at least these.
    The row of a task comes as soon as the task has been computed.
    """
    speeds = {machine.name: machine.tflops} if machine.tflops else dict(SUSTAINED_TFLOPS)
    yield from notes
    yield f"{'stage':<10}{'task':<44}{'GPU memory':>12}" + "".join(f"{name:>14}" for name in speeds)
    done = []
    for task in tasks:
        done.append(task)
        yield _row(task, speeds)
    yield _row(Task("", "all", max(task.peak_bytes for task in done), sum(task.flops for task in done)), speeds)
    yield ""
    yield f"disk in the stage that needs most, {disk.stage}"
    yield from (f"{'':<10}{name:<44}{size_text(size):>12}" for name, size in disk.files.items())
    yield f"{'':<10}{'all':<44}{size_text(disk.total):>12}   of {size_text(machine.free_disk_bytes)} free here"
    yield ""
    yield from (f"Not counted: {part}." for part in uncounted)
    yield from _verdict(done, disk, machine, is_least=bool(uncounted))


def stage_peaks(tasks: Sequence[Task]) -> dict[str, float]:
    """The peak memory of each stage, with the overhead."""
    peaks: dict[str, float] = defaultdict(float)
    for task in tasks:
        peaks[task.stage] = max(peaks[task.stage], task.peak_bytes + OVERHEAD_BYTES)
    return dict(peaks)


def _verdict(tasks: Sequence[Task], disk: Disk, machine: Machine, *, is_least: bool) -> list[str]:
    lines, least = [], "at least " if is_least else ""
    if machine.gpu_bytes is None:
        lines.append(
            "No GPU was found and --gpu-memory was not given, so the peaks are not compared with a GPU's memory."
        )
    else:
        peaks = stage_peaks(tasks)
        too_large = {name: peak for name, peak in peaks.items() if peak > machine.gpu_bytes}
        lines += [
            f"{name}: needs {least}{size_text(peak)}, but {machine.name} has {size_text(machine.gpu_bytes)}; {ADVICE}"
            for name, peak in too_large.items()
        ] or [_fits(max(peaks.values()), machine.name, machine.gpu_bytes, is_least=is_least)]
    if disk.total > machine.free_disk_bytes:
        lines.append(
            f"disk: needs {size_text(disk.total)}, but {size_text(machine.free_disk_bytes)} are free; {DISK_REMEDY}"
        )
    return lines


def _fits(peak: float, name: str, gpu_bytes: float, *, is_least: bool) -> str:
    if is_least:
        return f"The stages need at least {size_text(peak)}; {name} has {size_text(gpu_bytes)}."
    return f"All stages fit into the {size_text(gpu_bytes)} of {name}."


def _row(task: Task, speeds: Mapping[str, float]) -> str:
    times = "".join(f"{_time(task.flops / (speed * 1e12)):>14}" for speed in speeds.values())
    return f"{task.stage:<10}{task.name:<44}{size_text(task.peak_bytes + OVERHEAD_BYTES):>12}{times}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
