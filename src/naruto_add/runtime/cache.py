"""The one cache of computed tensors: a safetensors file that stores its key and a hash of its tensors.

A missing file is computed and written. A damaged file, or one with another key, is an error and never a silent
recomputation.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import content_hash, new_file


def cache_path(folder: Path, *key: Any) -> Path:
    """The file in `folder` for this key: JSON values, and Paths, which count by their content."""
    return folder / f"{content_hash(*key)}.safetensors"


def cached_tensors(path: Path, *, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors stored at `path`, on the CPU; computed and stored first if the file is missing.

    Raises StageError if the file is damaged or was stored with another key.
    """
    if not path.exists():
        write_tensors(path, compute(), key=key)
    return read_tensors(path, key=key)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, key: str) -> None:
    """Store tensors of any dtype, with their key, as one file that is complete or absent."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with new_file(path) as partial:  # one entry: metadata with a second one has no fixed order
        save_file(copies, partial, metadata={"key": f"{key} {hash_state(copies)}"})


def read_tensors(path: Path, *, key: str) -> dict[str, Tensor]:
    """What `write_tensors` stored. Raises StageError if the file is missing, damaged or was stored with another key."""
    try:
        with safe_open(path, framework="pt") as file:
            stored_key, _, stored_hash = (file.metadata() or {}).get("key", "").rpartition(" ")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise StageError(f"{path}: this cache file is damaged ({error}); delete it and run again") from error
    if stored_key != key:
        raise StageError(
            f"{path}: this cache file was computed from other data, weights or options; delete it and run again"
        )
    if stored_hash != hash_state(tensors):
        raise StageError(f"{path}: this cache file is damaged (its values changed on disk); delete it and run again")
    return tensors


def hash_state(state: Any) -> str:
    """A hash of tensors, numbers and strings in dicts and lists, of their names, shapes and types."""
    digest = hashlib.blake2b(digest_size=16)
    _add_state(digest, state)
    return digest.hexdigest()


def hash_array(array: NDArray[Any]) -> str:
    """A hash of an array's shape, dtype and values, for use in a key."""
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def hash_model(module: nn.Module) -> str:
    """A hash of a model's weights, their dtypes and its configuration without the path it was loaded from."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(_configuration(module), sort_keys=True, default=str).encode())
    for name, weight in module.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(_raw_bytes(weight))
    return digest.hexdigest()


def _raw_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _add_state(digest: "hashlib.blake2b", state: Any) -> None:
    if isinstance(state, Tensor):
        digest.update(f"{state.dtype} {tuple(state.shape)}".encode())
        digest.update(_raw_bytes(state))
    elif isinstance(state, Mapping):
        for name in sorted(state, key=repr):
            digest.update(f"{name!r}:".encode())
            _add_state(digest, state[name])
    elif isinstance(state, (list, tuple)):
        digest.update(f"{len(state)} items:".encode())
        for item in state:
            _add_state(digest, item)
    else:
        digest.update(f"{state!r};".encode())


def _configuration(module: nn.Module) -> dict[str, object]:
    config = getattr(module, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in values.items() if not name.startswith("_")}
