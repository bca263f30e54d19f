"""Live numbers and pictures of a training run, for the tool of the parameter `tracking`, through accelerate's trackers.

They are written below the folder `tracking`, which Git ignores, and nothing leaves this machine unless the environment
says so: WANDB_MODE for Weights & Biases. No result of the pipeline depends on them.
"""

import importlib.util
import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from naruto_add.config.schema import Tracking
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.extras import install_command

FOLDER = Path("tracking")
PROJECT = "naruto-add"


class Tracker(Protocol):
    """What a training run tells the tool; `step` is the number of steps done."""

    def log(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Add the scalars of a step, except those without a finite value."""

    def log_pictures(self, step: int, pictures: NDArray[np.uint8]) -> None:
        """Add pictures (batch, height, width, RGB), side by side in one."""


@contextmanager
def tracked(tool: Tracking, name: str) -> Generator[Tracker | None]:
    """A run of this name in the tool; None for `none`, and in all processes but the main one.

    Raises StageError if the tool's package is missing.
    """
    if tool == "none":
        yield None
        return
    if importlib.util.find_spec(tool) is None:
        raise StageError(
            f"tracking: {tool} needs the package {tool}, which is an extra: `{install_command(tool)}`, or use none"
        )
    from accelerate import Accelerator

    folder = FOLDER / tool
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_MODE", "offline")
    if tool == "dvclive":
        _name_metrics(name)
    accelerator = Accelerator(log_with=tool, project_dir=str(folder), cpu=not torch.cuda.is_available())
    project = PROJECT if tool == "wandb" else name
    accelerator.init_trackers(project, init_kwargs={tool: _options(tool, name, folder)})
    try:
        yield _Tracker(accelerator, tool) if accelerator.is_main_process else None
    finally:
        accelerator.end_training()


class _Tracker:
    def __init__(self, accelerator: Any, tool: Tracking) -> None:
        self._accelerator, self._tool = accelerator, tool

    def log(self, step: int, scalars: Mapping[str, float | None]) -> None:
        finite = {name: value for name, value in scalars.items() if value is not None and math.isfinite(value)}
        self._accelerator.log(finite, step=step)

    def log_pictures(self, step: int, pictures: NDArray[np.uint8]) -> None:
        picture = np.concatenate(list(pictures), axis=1)
        tracker = self._accelerator.get_tracker(self._tool)
        match self._tool:
            case "tensorboard":
                tracker.log_images({"validation": picture[None]}, step=step, dataformats="NHWC")
            case "wandb":
                tracker.log_images({"validation": [Image.fromarray(picture)]}, step=step)
            case "dvclive":
                tracker.tracker.log_image(f"validation/{step}.png", Image.fromarray(picture))


def _name_metrics(name: str) -> None:
    """Write tracking/dvc.yaml, by which `dvc exp show`, `dvc plots show` and VS Code find the numbers of DVCLive.

    It names only runs that exist, because dvc warns of missing files. Git sees this file of the folder alone: dvc reads
    no dvc.yaml that Git ignores.
    """
    names = sorted({name, *(path.name for path in (FOLDER / "dvclive").iterdir())})
    metrics = [f"  - dvclive/{run}/metrics.json" for run in names]
    plots = [f"  - dvclive/{run}/plots/metrics:\n      x: step" for run in names]
    (FOLDER / "dvc.yaml").write_text("\n".join(["metrics:", *metrics, "plots:", *plots, ""]), encoding="utf-8")


def _options(tool: Tracking, name: str, folder: Path) -> dict[str, Any]:
    """The tracker's options. DVCLive writes no experiment, because DVC does, and no dvc.yaml in the project's root."""
    match tool:
        case "wandb":
            return {"name": name, "dir": str(folder)}
        case "dvclive":
            return {"dir": str(folder / name), "save_dvc_exp": False, "dvcyaml": None, "report": None}
        case _:
            return {}
