"""ONNX networks whose large weights are stored in fewer bits; onnxruntime restores them when it loads the file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_VALUES = 1024
"""Weights with fewer values stay in fp32."""


@dataclass(frozen=True)
class Stored:
    """What replaces a weight: arrays by name, and the node that computes the weight from them."""

    arrays: dict[str, NDArray[Any]]
    node: Any


def replace_large_weights(graph: Any, stored: Callable[[str, NDArray[np.float32]], Stored | None]) -> None:
    """Replace each large fp32 weight of the graph by what `stored` returns for its name and values.

    If it returns None, the weight stays as it is.
    """
    import onnx

    restoring = []
    for weight in list(graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < MIN_VALUES:
            continue
        found = stored(weight.name, onnx.numpy_helper.to_array(weight))
        if found is None:
            continue
        graph.initializer.remove(weight)
        graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in found.arrays.items())
        restoring.append(found.node)
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
