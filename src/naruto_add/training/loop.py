"""The training loop: checkpoints, exact resume, validation, curves, progress.

A training step is a function of its number and the trained state: it draws all its random numbers from
`compute.step_generator`. So a run that was killed and resumed ends with the same weights as an uninterrupted one, bit
for bit on one machine.
"""

import signal
import threading
from collections.abc import Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from naruto_add.config.schema import Tracking
from naruto_add.runtime.disk import require_free
from naruto_add.runtime.sharing import is_main, wait_for_all
from naruto_add.runtime.tracking import Tracker, tracked
from naruto_add.training.checkpoint import Checkpoint, Stateful, bytes_to_train
from naruto_add.training.curves import Curves, Scalars
from naruto_add.training.processes import main_progress, summed


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Where a training keeps its checkpoint and writes its curves, and the tool that shows it live.

    `checkpoint_dir` must be used by one configuration only.
    """

    checkpoint_dir: Path
    curves_path: Path
    tracking: Tracking = "none"


def run_steps(
    train_step: Callable[[int], Scalars],
    run: TrainingRun,
    *,
    name: str,
    num_steps: int,
    state: Mapping[str, Stateful],
    num_weights: int,
    validate: Callable[[int], Scalars],
    validation_every_steps: int,
    pictures: Callable[[], NDArray[np.uint8]] | None = None,
) -> None:
    """Do the steps 0 to `num_steps` - 1, except those that the checkpoint of `run` contains already.

    `train_step(step)` does one step. `validate(num_done)` is called before the first step, after every
    `validation_every_steps` and after the last. Both return the scalars of a row in the curves. After Ctrl-C or SIGTERM
    the current step is completed, the state is saved and KeyboardInterrupt is raised. Raises StageError before the
    first step if the checkpoints of `num_weights` trained weights do not fit on the disk.

    The curves are written after the first step, then every `curves.LIVE_SECONDS` and after validations, for those who
    watch. The rows also go to the tool of `run.tracking`, and so does what `pictures()` returns after a validation:
    uint8 pictures (batch, height, width, RGB). It is called in the main process only, and only with such a tool.
    """
    if is_main():
        existing = sum(path.stat().st_size for path in run.checkpoint_dir.glob(f"{name}*.pt"))
        require_free(run.checkpoint_dir, bytes_to_train(num_weights) - existing, purpose=f"the checkpoints of {name}")
    curves = Curves(num_steps)
    checkpoint = Checkpoint(run.checkpoint_dir / f"{name}.pt", {**state, "curves": curves}, rarely_changed=["best"])
    num_done = checkpoint.load()
    wait_for_all()  # until all processes have read the checkpoint, none may write it
    with _interruptible() as received, tracked(run.tracking, name) as tracker:
        if num_done is None:
            num_done = 0
            curves.add_validation(0, validate(0))
        bar = main_progress(range(num_done, num_steps), desc=name, total=num_steps, initial=num_done)
        for step in bar:
            scalars = train_step(step)
            num_done = step + 1
            curves.add_training(num_done, scalars)
            _track(tracker, num_done, scalars)
            is_validation = num_done % validation_every_steps == 0 or num_done == num_steps
            if is_validation:
                validated = validate(num_done)
                curves.add_validation(num_done, validated)
                _track(tracker, num_done, validated, pictures)
            if is_validation or curves.is_due():
                _write_curves(curves, run.curves_path)
            is_interrupted = _any_process(received)
            if is_main() and (is_validation or is_interrupted or checkpoint.is_due()):
                checkpoint.save(num_done)
            if is_interrupted:
                wait_for_all()  # the main process may still be saving
                raise KeyboardInterrupt
            bar.set_postfix(_first_values(scalars), refresh=False)
        if _any_process(received):  # a signal that came while the last step was saved
            raise KeyboardInterrupt
    _write_curves(curves, run.curves_path)


def _write_curves(curves: Curves, path: Path) -> None:
    if is_main():
        curves.write(path)


def _track(
    tracker: Tracker | None,
    step: int,
    scalars: Scalars,
    pictures: Callable[[], NDArray[np.uint8]] | None = None,
) -> None:
    if tracker is None:
        return
    if pictures is not None:
        tracker.log_pictures(step, pictures())
    tracker.log(step, scalars)


def _first_values(scalars: Scalars) -> dict[str, str]:
    """The first three scalars, for the progress bar."""
    return {name: f"{value:.3g}" for name, value in list(scalars.items())[:3] if value is not None}


def _any_process(received: AbstractSet[int]) -> bool:
    """Whether a signal has been received; it may reach only one of the processes."""
    return summed(bool(received)) > 0


@contextmanager
def _interruptible() -> Generator[AbstractSet[int]]:
    """Yield the set of signals received, SIGINT and SIGTERM; a SIGINT after the first raises KeyboardInterrupt at once.

    At its end the block raises KeyboardInterrupt if the set is not empty, so that no signal is lost. SIGTERM may come
    several times: once for each thread of a killed parent. So it is ignored after the first, also after the block.
    """
    received: set[int] = set()
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may install signal handlers
        return

    def interrupt(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.add(number)

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            is_ending = number == signal.SIGTERM and number in received
            signal.signal(number, signal.SIG_IGN if is_ending else handler)
    if received:
        raise KeyboardInterrupt
