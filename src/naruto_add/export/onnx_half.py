"""The ONNX networks with fp16 weights: half the size, computed in fp32, for the demo page.

Each large weight is stored as fp16, and a Cast restores it, which onnxruntime does once, when it loads the file.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from naruto_add.export.onnx_weights import Stored, replace_large_weights


def half_network(path: Path) -> bytes:
    """The network of this file, without weights in other files. A weight beyond fp16's range stays in fp32."""
    import onnx

    model = onnx.load(path)
    replace_large_weights(model.graph, _half)
    content: bytes = model.SerializeToString()
    return content


def _half(name: str, values: NDArray[np.float32]) -> Stored | None:
    import onnx

    if not np.abs(values).max() <= np.finfo(np.float16).max:
        return None
    half = f"{name}.half"
    node = onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT)
    return Stored({half: values.astype(np.float16)}, node)
