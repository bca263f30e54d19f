"""Checkpoints: the state of everything that training changes, from which a killed run resumes.

What changes in every step is in one file. The best weights, which change at few validations, are in a file of their own
that is written only when they change. The checkpoint before the last one is kept, in case the last one is damaged, but
it is deleted before the next one is written if the disk has no space for three.
"""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from tqdm import tqdm

from naruto_add.runtime.cache import hash_state
from naruto_add.runtime.disk import MARGIN_BYTES
from naruto_add.runtime.errors import StageError, shown
from naruto_add.runtime.files import link_or_copy, new_file
from naruto_add.runtime.sharing import is_main

CHECKPOINT_SECONDS = 60.0
"""Minimum time between two checkpoints that are not required by a validation or an interruption."""
MIN_TRAINING_PER_SAVING = 20.0
"""Minimum ratio of this time to the time that the last save took, so that large models are saved less often."""


BYTES_PER_WEIGHT = 16
"""A trained weight, its moving average, and AdamW's two averages, fp32."""
BYTES_PER_BEST_WEIGHT = 4


def bytes_to_train(num_weights: int) -> int:
    """The disk that checkpoints of this many trained weights need: the last one, and one that is being written."""
    return 2 * num_weights * (BYTES_PER_WEIGHT + BYTES_PER_BEST_WEIGHT)


@runtime_checkable
class Stateful(Protocol):
    """An object whose state a checkpoint can store: tensors, numbers and strings in lists and dicts."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Checkpoint:
    """The file at `path` for the states of these objects, by name; those of `rarely_changed` are in files next to it.

    The checkpoint that was saved before is next to it, with `.previous` in its name, if the disk has space for three
    checkpoints and `margin_bytes`.
    """

    def __init__(
        self,
        path: Path,
        state: Mapping[str, Stateful],
        *,
        rarely_changed: Sequence[str] = (),
        margin_bytes: int = MARGIN_BYTES,
    ) -> None:
        self._path = path
        self._previous_path = path.with_suffix(f".previous{path.suffix}")
        self._apart: dict[str, str] = {}
        """Hashes of the states in files of their own, of the checkpoint that was saved or loaded last."""
        self._is_damaged = False
        """Whether the file at `path` could not be read, so that it must not replace the checkpoint before it."""
        self._state, self._margin_bytes = state, margin_bytes
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
        if self._is_short_of_space():
            self._delete_one()
        for name, digest in apart.items():
            self._save_apart(name, digest, states.pop(name))
        content = {"num_done": num_done, "states": states, "apart": apart}
        with new_file(self._path) as partial:
            with partial.open("wb") as stream:  # torch's own writer hides why a file cannot be written
                torch.save({**content, "hash": hash_state(content)}, stream)
            if self._path.exists() and not self._is_damaged:
                link_or_copy(self._path, self._previous_path)
        self._delete_apart_except(apart, self._apart)
        self._apart, self._is_damaged = apart, False
        self._saved_at = time.monotonic()
        self._interval = max(CHECKPOINT_SECONDS, MIN_TRAINING_PER_SAVING * (self._saved_at - started))

    def load(self) -> int | None:
        """Restore the states and return the number of steps done, or return None if there is no checkpoint.

        If the last checkpoint is damaged, the one before it is restored and a message says so. Raises StageError,
        before any state is changed, if that one is damaged or missing as well.
        """
        if not self._path.exists() and not self._previous_path.exists():
            return None
        try:
            saved = self._read_whole(self._path)
        except _DamagedError as error:
            saved = self._read_previous(error)
        for name, item in self._state.items():
            item.load_state_dict(saved["states"][name])
        self._apart = saved["apart"]
        return int(saved["num_done"])

    def _read_previous(self, error: "_DamagedError") -> dict[str, Any]:
        """The checkpoint before the last one, whose `error` is raised if there is none."""
        if not self._previous_path.exists():
            raise error
        saved = self._read_whole(self._previous_path)
        self._is_damaged = True
        if is_main():
            tqdm.write(
                f"{error.problem}; training goes on from the checkpoint before it, after step {saved['num_done']}, and "
                "repeats the steps since",
                file=sys.stderr,
            )
        return saved

    def _read_whole(self, path: Path) -> dict[str, Any]:
        """The content of the file at `path` and of those that it names."""
        saved = _read(path)
        apart = {name: _read(self._apart_path(name, digest))["state"] for name, digest in saved["apart"].items()}
        return {**saved, "states": saved["states"] | apart}

    def _apart_path(self, name: str, digest: str) -> Path:
        return self._path.with_suffix(f".{name}-{digest}.pt")

    def _is_short_of_space(self) -> bool:
        """Whether a third checkpoint as large as those that exist would not fit."""
        existing = [path for path in (self._path, self._previous_path) if path.exists()]
        if len(existing) < 2:
            return False
        apart = [
            path for name in self._rarely_changed for path in self._path.parent.glob(self._apart_path(name, "*").name)
        ]
        needed = sum(max(path.stat().st_size for path in paths) for paths in (existing, apart) if paths)
        return shutil.disk_usage(self._path.parent).free < needed + self._margin_bytes

    def _delete_one(self) -> None:
        """Delete the older checkpoint, or the last one if it is damaged, so that one whole checkpoint is left."""
        (self._path if self._is_damaged else self._previous_path).unlink()
        self._delete_apart_except(self._apart)

    def _save_apart(self, name: str, digest: str, state: dict[str, Any]) -> None:
        path = self._apart_path(name, digest)
        if self._apart.get(name) == digest and path.exists():  # written or checked by this process
            return
        with new_file(path) as partial, partial.open("wb") as stream:
            torch.save({"state": state, "hash": hash_state({"state": state})}, stream)

    def _delete_apart_except(self, *kept: Mapping[str, str]) -> None:
        paths = {self._apart_path(name, digest) for apart in kept for name, digest in apart.items()}
        for name in self._rarely_changed:
            for path in self._path.parent.glob(self._apart_path(name, "*").name):
                if path not in paths:
                    path.unlink()


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


def _damaged(path: Path, problem: str) -> "_DamagedError":
    return _DamagedError(f"{path}: this checkpoint is damaged ({problem})")


class _DamagedError(StageError):
    def __init__(self, problem: str) -> None:
        """`problem` names the file."""
        self.problem = shown(problem)
        super().__init__(
            f"{problem}; delete the *.pt files in its folder and run again, which trains this stage from its first step"
        )
