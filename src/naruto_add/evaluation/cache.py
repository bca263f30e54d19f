"""Arrays that were expensive to make, kept under a hash of everything that they depend on."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naruto_add.files import content_hash, new_file

Arrays = Mapping[str, NDArray[Any]]


def cached(cache_dir: Path, key: Sequence[Any], make: Callable[[], Arrays]) -> Arrays:
    """What `make` returns, made at most once per key (JSON values and Paths, which count by content)."""
    path = cache_dir / f"{content_hash(*key)}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    arrays = make()
    with new_file(path) as partial:
        np.savez(partial, allow_pickle=False, **arrays)
    return arrays


def digest(array: NDArray[Any]) -> list[Any]:
    """What tells this array, of pictures for one, from any other: JSON values for a key."""
    return [array.shape, hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()]
