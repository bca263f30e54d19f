"""Cached results of the evaluation: numpy arrays, stored as tensors by `runtime.cache`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_add.runtime.cache import cache_path, cached_tensors
from naruto_add.runtime.sharing import shared_tensors

Arrays = Mapping[str, NDArray[Any]]


def cached_arrays(cache_dir: Path, *key: Any, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays of `compute`, which is called once per key (JSON values, and Paths, which count by their content).

    Raises StageError if the stored file is damaged.
    """

    path = cache_path(cache_dir, *key)
    stored = cached_tensors(path, key=path.stem, compute=lambda: _tensors(compute()))
    return {name: tensor.numpy() for name, tensor in stored.items()}


def shared_arrays(cache_dir: Path, *key: Any, compute: Callable[[], Arrays]) -> Arrays:
    """As `cached_arrays`, but all processes call `compute` together, each for its part, and all get the arrays."""
    path = cache_path(cache_dir, *key)
    stored = shared_tensors(path, key=path.stem, compute=lambda: _tensors(compute()))
    return {name: tensor.numpy() for name, tensor in stored.items()}


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()}


def local_folder(model: str) -> list[Path]:
    """The folder of the model in a list; an empty list for a model on the hub, which its revision identifies."""
    return [Path(model)] if Path(model).is_dir() else []
