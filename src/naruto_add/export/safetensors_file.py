"""safetensors files whose bytes depend on their content alone."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

HEADER_SIZE = "<Q"


def save_sorted(state: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the tensors with their metadata sorted; the package writes metadata in random order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata=dict(metadata))
    with path.open("r+b") as file:
        (size,) = struct.unpack(HEADER_SIZE, file.read(struct.calcsize(HEADER_SIZE)))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(ordered) <= size, "the same header in another order is not longer"
        file.seek(struct.calcsize(HEADER_SIZE))
        file.write(ordered.ljust(size))


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, "pt") as tensors:
        return dict(tensors.metadata() or {})
