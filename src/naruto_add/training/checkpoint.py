"""Checkpoints: the state of everything that training changes, from which a killed run resumes.

What changes in every step is in one file. The best weights, which change at few validations, are in a file of their own
that is written only when they change.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from naruto_add.runtime.cache import hash_state
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_file

CHECKPOINT_SECONDS = 60.0
"""Minimum time between two checkpoints that are not required by a validation or an interruption."""
MIN_TRAINING_PER_SAVING = 20.0
"""Minimum ratio of this time to the time that the last save took, so that large models are saved less often."""


BYTES_PER_WEIGHT = 16
"""A trained weight, its moving average, and AdamW's two averages, fp32."""
BYTES_PER_BEST_WEIGHT = 4


def bytes_to_train(num_weights: int) -> int:
    """The most disk that checkpoints of this many trained weights need: a new one is written beside the old."""
    return 2 * num_weights * (BYTES_PER_WEIGHT + BYTES_PER_BEST_WEIGHT)


@runtime_checkable
class Stateful(Protocol):
    """An object whose state a checkpoint can store: tensors, numbers and strings in lists and dicts."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Checkpoint:
    """The file at `path` for the states of these objects, by name; those of `rarely_changed` are in files beside it."""

    def __init__(self, path: Path, state: Mapping[str, Stateful], *, rarely_changed: Sequence[str] = ()) -> None:
        self._path = path
        self._state = state
        self._rarely_changed = [name for name in rarely_changed if name in state]
        self._saved_at = time.monotonic()
        self._interval = CHECKPOINT_SECONDS

    def is_due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._saved_at > self._interval

    def save(self, num_done: int) -> None:
        """Write the states and the number of steps done; an old file is replaced only by a complete one."""
        started = time.monotonic()
        states = {name: item.state_dict() for name, item in self._state.items()}
        apart = {name: hash_state(states[name]) for name in self._rarely_changed}
        for name, digest in apart.items():
            self._save_apart(self._apart_path(name, digest), states.pop(name))
        content = {"num_done": num_done, "states": states, "apart": apart}
        with new_file(self._path) as partial:
            torch.save({**content, "hash": hash_state(content)}, partial)
        for name, digest in apart.items():
            for old in self._path.parent.glob(self._apart_path(name, "*").name):
                if old != self._apart_path(name, digest):
                    old.unlink()
        self._saved_at = time.monotonic()
        self._interval = max(CHECKPOINT_SECONDS, MIN_TRAINING_PER_SAVING * (self._saved_at - started))

    def load(self) -> int | None:
        """Restore the states and return the number of steps done, or return None if the file does not exist.

        Raises StageError, before any state is changed, if the file is damaged.
        """
        if not self._path.exists():
            return None
        saved = _read(self._path)
        states = saved["states"] | {
            name: _read(self._apart_path(name, digest))["state"] for name, digest in saved["apart"].items()
        }
        for name, item in self._state.items():
            item.load_state_dict(states[name])
        return int(saved["num_done"])

    def _apart_path(self, name: str, digest: str) -> Path:
        return self._path.with_suffix(f".{name}-{digest}.pt")

    def _save_apart(self, path: Path, state: dict[str, Any]) -> None:
        if path.exists():
            return
        with new_file(path) as partial:
            torch.save({"state": state, "hash": hash_state({"state": state})}, partial)


def _read(path: Path) -> dict[str, Any]:
    """The content of one file without its hash. Raises StageError if it is damaged or missing."""
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        is_whole = saved.pop("hash") == hash_state(saved)
    except Exception as error:  # torch's readers raise nearly any error for damaged files
        raise _damaged(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    if not is_whole:
        raise _damaged(path, "its values changed on disk")
    return saved


def _damaged(path: Path, problem: str) -> StageError:
    return StageError(
        f"{path}: this checkpoint is damaged ({problem}); delete the *.pt files in its folder and run again, which "
        "trains this stage from its first step"
    )
