"""Cached results of the evaluation: numpy arrays, stored as tensors by `runtime.cache`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_add.runtime.cache import cache_path, cached_tensors
from naruto_add.runtime.sharing import shared_tensors

Arrays = Mapping[str, NDArray[Any]]
ONLY = "images"
"""The stored name of an array that is alone in its file: that of drawn pictures, which outlive changes of this code."""


@dataclass(frozen=True)
class Cache:
    """Arrays in the files of a folder, each computed once per key.

    A key consists of JSON values and of Paths, which count by their content. Reading a damaged file raises StageError.
    """

    folder: Path

    def arrays(self, *key: Any, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays of `compute`, which is called only if there is no file of this key."""
        path = cache_path(self.folder, *key)
        stored = cached_tensors(path, key=path.stem, compute=lambda: _tensors(compute()))
        return {name: tensor.numpy() for name, tensor in stored.items()}

    def array(self, *key: Any, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """As `arrays`, but a single array."""
        return self.arrays(*key, compute=lambda: {ONLY: compute()})[ONLY]

    def shared_array(self, *key: Any, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """As `array`, but all processes call `compute` together, each for its part, and all get the array."""
        path = cache_path(self.folder, *key)
        return shared_tensors(path, key=path.stem, compute=lambda: _tensors({ONLY: compute()}))[ONLY].numpy()


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()}


def local_folder(model: str) -> list[Path]:
    """The folder of the model in a list; an empty list for a model on the hub, which its revision identifies."""
    return [Path(model)] if Path(model).is_dir() else []
