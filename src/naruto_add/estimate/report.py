"""What a run of the pipeline needs: memory, time and disk, and what to change if it does not fit."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from naruto_add.estimate.machine import SUSTAINED_TFLOPS, Machine
from naruto_add.estimate.tasks import Task

GB = 1e9
OVERHEAD_BYTES = 0.7e9
"""Assumed: the CUDA context, the workspace of convolutions, and fragmentation."""
ADVICE = (
    "to need less memory: raise accumulation_steps (it must divide batch_size), then set gradient_checkpointing: true, "
    "then optimizer.ema_on_cpu: true, then optimizer.name: adamw_8bit, in the section of the stage; "
    "for `draw`, lower evaluate.batch_size; or use a preset (naruto-add profile list)"
)


def estimate_text(tasks: Sequence[Task], disk: Mapping[str, int], machine: Machine, *, notes: Sequence[str]) -> str:
    """Tables of memory and time by task, of disk by kind of file, and the remedies for what does not fit."""
    speeds = {machine.name: machine.tflops} if machine.tflops else dict(SUSTAINED_TFLOPS)
    lines = [
        *notes,
        f"{'stage':<10}{'task':<44}{'GPU memory':>12}" + "".join(f"{name:>14}" for name in speeds),
        *(_row(task, speeds) for task in tasks),
        _row(Task("", "all", max(task.peak_bytes for task in tasks), sum(task.flops for task in tasks)), speeds),
        "",
        f"{'disk':<54}{'':>12}",
        *(f"{'':<10}{name:<44}{_gb(size):>12}" for name, size in disk.items()),
        f"{'':<10}{'all':<44}{_gb(sum(disk.values())):>12}   of {_gb(machine.free_disk_bytes)} free here",
        "",
        *_verdict(tasks, disk, machine),
    ]
    return "\n".join(line.rstrip() for line in lines)


def stage_peaks(tasks: Sequence[Task]) -> dict[str, float]:
    """The peak memory of each stage, with the overhead."""
    peaks: dict[str, float] = defaultdict(float)
    for task in tasks:
        peaks[task.stage] = max(peaks[task.stage], task.peak_bytes + OVERHEAD_BYTES)
    return dict(peaks)


def _verdict(tasks: Sequence[Task], disk: Mapping[str, int], machine: Machine) -> list[str]:
    lines = []
    if machine.gpu_bytes is None:
        lines.append("No GPU was found or stated (--gpu-memory), so whether the stages fit is not said.")
    else:
        too_large = {name: peak for name, peak in stage_peaks(tasks).items() if peak > machine.gpu_bytes}
        lines += [
            f"{name}: needs {_gb(peak)}, but {machine.name} has {_gb(machine.gpu_bytes)}; {ADVICE}"
            for name, peak in too_large.items()
        ] or [f"All stages fit into the {_gb(machine.gpu_bytes)} of {machine.name}."]
    if sum(disk.values()) > machine.free_disk_bytes:
        lines.append(
            f"disk: needs {_gb(sum(disk.values()))}, but {_gb(machine.free_disk_bytes)} are free; free some, or let "
            'DVC link results instead of copying them: dvc config --local cache.type "reflink,hardlink,copy"'
        )
    return lines


def _row(task: Task, speeds: Mapping[str, float]) -> str:
    hours = "".join(f"{_hours(task.flops, speed):>14}" for speed in speeds.values())
    return f"{task.stage:<10}{task.name:<44}{_gb(task.peak_bytes + OVERHEAD_BYTES):>12}{hours}"


def _hours(flops: float, tflops: float) -> str:
    return f"{flops / (tflops * 1e12) / 3600:.2f} h"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:.1f} GB"
