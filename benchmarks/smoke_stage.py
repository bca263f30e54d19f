"""One stage of a smoke run in a process of its own: `python -m benchmarks.smoke_stage STAGE`, for `gpu_smoke`.

The last line of its output is JSON: the most GPU memory that the process reserved, and the seconds of every training
step, apart for each training and for the two phases of the student's.
"""

import json
import runpy
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import seconds_of
from naruto_add.config import paths
from naruto_add.config.load import load_params
from naruto_add.training import loop


def main(stage: str) -> None:
    """Run the stage and print what it took."""
    seconds = record_steps(load_params(paths.PARAMS).student.knowledge_steps)
    runpy.run_module(f"stages.{stage}", run_name="__main__")
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    print(json.dumps({"peak": peak, "seconds": seconds}))


def record_steps(knowledge_steps: int) -> dict[str, list[float]]:
    """Trainings that are imported from now on append the seconds of their steps to the lists of the result."""
    seconds: dict[str, list[float]] = defaultdict(list)
    run_steps = loop.run_steps

    def timed(train_step: Callable[[int], loop.Scalars], *args: Any, name: str, **options: Any) -> None:
        def step(number: int) -> loop.Scalars:
            scalars: list[loop.Scalars] = []
            took = seconds_of(lambda: scalars.append(train_step(number)))
            phase = ", knowledge" if number < knowledge_steps else ", trajectory"
            seconds[name + (phase if name == "student" else "")].append(took)
            return scalars[0]

        run_steps(step, *args, name=name, **options)

    loop.run_steps = timed
    return seconds


if __name__ == "__main__":
    main(sys.argv[1])
