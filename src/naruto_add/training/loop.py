"""The loop around a training step: checkpoints, exact resume, validation, curves, progress.

A step is a function of (state, step number): it draws all its randomness from `compute.step_generator`. So a run that
was killed and resumed ends with the same weights, bit for bit on one machine, as one that was not.
"""

import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from naruto_add.training.checkpoint import Checkpoint, Stateful
from naruto_add.training.curves import Curves, Scalars
from naruto_add.training.sharing import is_main, shown, summed, wait_for_all


def run_steps(
    train_step: Callable[[int], Scalars],
    *,
    name: str,
    num_steps: int,
    state: Mapping[str, Stateful],
    validate: Callable[[int], Scalars],
    validation_every_steps: int,
    checkpoint_dir: Path,
    curves_path: Path,
    is_finished: Callable[[], bool] = lambda: False,
) -> None:
    """Do steps 0 to `num_steps` - 1, or those that a checkpoint in `checkpoint_dir` has not done yet.

    `train_step(step)` does one; `validate(num_done)` is called before the first, after every
    `validation_every_steps` and after the last. Both return the scalars of their row in the curves.
    Training ends before a step at which `is_finished()`. Ctrl-C and SIGTERM
    finish the step, save and raise KeyboardInterrupt.
    """
    curves = Curves(num_steps)
    checkpoint = Checkpoint(checkpoint_dir / f"{name}.pt", {**state, "curves": curves})
    first = checkpoint.load()
    wait_for_all()  # nobody writes before all have read
    if first is None:
        first = 0
        curves.add_validation(0, validate(0))
    with _interruptible() as interrupted:
        bar = shown(range(first, num_steps), desc=name, total=num_steps, initial=first)
        for step in bar:
            if is_finished():
                break
            scalars = train_step(step)
            num_done = step + 1
            curves.add_training(num_done, scalars)
            is_validation = num_done % validation_every_steps == 0 or num_done == num_steps
            if is_validation:
                curves.add_validation(num_done, validate(num_done))
            is_interrupted = summed(interrupted.is_set()) > 0  # a signal may reach but one of the processes
            if is_main():
                if is_validation:
                    curves.write(curves_path)
                if is_validation or is_interrupted or checkpoint.is_due():
                    checkpoint.save(num_done)
            if is_interrupted:
                wait_for_all()  # the main process is still saving
                raise KeyboardInterrupt
            values = {key: f"{value:.3g}" for key, value in list(scalars.items())[:3] if value is not None}
            bar.set_postfix(values, refresh=False)
    if is_main():
        curves.write(curves_path)


@contextmanager
def _interruptible() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set instead of breaking into a step; a second signal does break."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def interrupt(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
