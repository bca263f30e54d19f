"""What a run of the pipeline needs: memory, time and disk, and what to change if it does not fit."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from naruto_add.estimate.machine import SUSTAINED_TFLOPS, Machine
from naruto_add.estimate.tasks import Task

GB, MB = 1e9, 1e6
OVERHEAD_BYTES = 0.7e9
"""Assumed: the CUDA context, the workspace of convolutions, and fragmentation."""
ADVICE = (
    "to need less memory: raise accumulation_steps (it must divide batch_size), then set gradient_checkpointing: true, "
    "then optimizer.ema_on_cpu: true, then optimizer.name: adamw_8bit, in the section of the stage; "
    "for `draw`, lower evaluate.batch_size; or use a preset (naruto-add profile list)"
)


def estimate_lines(
    tasks: Iterable[Task], disk: Mapping[str, int], machine: Machine, *, notes: Sequence[str]
) -> Iterator[str]:
    """Tables of memory and time by task, of disk by kind of file, and the remedies for what does not fit.

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
    yield "disk"
    yield from (f"{'':<10}{name:<44}{_size(size):>12}" for name, size in disk.items())
    yield f"{'':<10}{'all':<44}{_size(sum(disk.values())):>12}   of {_size(machine.free_disk_bytes)} free here"
    yield ""
    yield from _verdict(done, disk, machine)


def stage_peaks(tasks: Sequence[Task]) -> dict[str, float]:
    """The peak memory of each stage, with the overhead."""
    peaks: dict[str, float] = defaultdict(float)
    for task in tasks:
        peaks[task.stage] = max(peaks[task.stage], task.peak_bytes + OVERHEAD_BYTES)
    return dict(peaks)


def _verdict(tasks: Sequence[Task], disk: Mapping[str, int], machine: Machine) -> list[str]:
    lines = []
    if machine.gpu_bytes is None:
        lines.append(
            "No GPU was found and --gpu-memory was not given, so the peaks are not compared with a GPU's memory."
        )
    else:
        too_large = {name: peak for name, peak in stage_peaks(tasks).items() if peak > machine.gpu_bytes}
        lines += [
            f"{name}: needs {_size(peak)}, but {machine.name} has {_size(machine.gpu_bytes)}; {ADVICE}"
            for name, peak in too_large.items()
        ] or [f"All stages fit into the {_size(machine.gpu_bytes)} of {machine.name}."]
    if sum(disk.values()) > machine.free_disk_bytes:
        lines.append(
            f"disk: needs {_size(sum(disk.values()))}, but {_size(machine.free_disk_bytes)} are free; free some, or "
            'let DVC link results instead of copying them: dvc config --local cache.type "reflink,hardlink,copy"'
        )
    return lines


def _row(task: Task, speeds: Mapping[str, float]) -> str:
    times = "".join(f"{_time(task.flops / (speed * 1e12)):>14}" for speed in speeds.values())
    return f"{task.stage:<10}{task.name:<44}{_size(task.peak_bytes + OVERHEAD_BYTES):>12}{times}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(num_bytes: float) -> str:
    if num_bytes < 0.1 * GB:
        return f"{num_bytes / MB:.3g} MB"
    return f"{num_bytes / GB:.1f} GB"
