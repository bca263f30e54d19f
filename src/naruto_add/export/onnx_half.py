"""The ONNX networks with fp16 weights: half the size, computed in fp32, for the demo page.

Each large weight is stored as fp16, and a Cast restores it, which onnxruntime does once, when it loads the file.
"""

from pathlib import Path

import numpy as np

MIN_VALUES = 1024
"""Smaller weights stay in fp32."""


def half_network(path: Path) -> bytes:
    """The network of this file, without weights in other files. A weight beyond fp16's range stays in fp32."""
    import onnx

    model = onnx.load(path)
    graph, restoring = model.graph, []
    for weight in list(graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < MIN_VALUES:
            continue
        values = onnx.numpy_helper.to_array(weight)
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            continue
        stored = f"{weight.name}.half"
        restoring.append(onnx.helper.make_node("Cast", [stored], [weight.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.remove(weight)
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    content: bytes = model.SerializeToString()
    return content
