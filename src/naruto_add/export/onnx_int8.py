"""The ONNX networks with int8 weights: a quarter of the size, computed in fp32.

Each large weight is stored as int8 with one scale per output channel, and a DequantizeLinear restores it. onnxruntime
does this once, when it loads the file, if `session.disable_quant_qdq` is set. Its own `quantize_dynamic` rounds
activations too, which makes drawing slower and pictures worse: docs/exports.md has figures.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naruto_add.export.onnx_files import has_separate_weights
from naruto_add.export.onnx_weights import Stored, replace_large_weights
from naruto_add.generate.onnx_pipeline import SAMPLER, TEXT_ENCODER, TOKENIZER, UNET, VAE_DECODER

CHANNEL_AXIS = {"Conv": 0, "Gather": 0, "MatMul": -1}
"""Operators whose weight is quantized, and the axis of the weight that has a scale each."""


def write_int8(source: Path, folder: Path) -> None:
    """Write the networks of `source` with int8 weights, and its other files as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TEXT_ENCODER, UNET, VAE_DECODER):
        _write_network(source / name, folder / name)
    for name in (TOKENIZER, SAMPLER):
        shutil.copyfile(source / name, folder / name)


def quantized(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The weight in -127..127, and the scale of each slice along `axis` that restores it."""
    others = tuple(index for index in range(weight.ndim) if index != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight / np.expand_dims(scale, others)).astype(np.int8), scale


def _write_network(source: Path, target: Path) -> None:
    import onnx

    model = onnx.load(source)
    axes = _channel_axes(model.graph)

    def stored(name: str, values: NDArray[np.float32]) -> Stored | None:
        return _int8(name, values, axes[name]) if name in axes and values.ndim > 1 else None

    replace_large_weights(model.graph, stored)
    onnx.save(model, target, save_as_external_data=has_separate_weights(source), location=f"{target.name}.data")


def _int8(name: str, values: NDArray[np.float32], axis: int) -> Stored:
    import onnx

    whole, scale = quantized(values, axis)
    arrays: dict[str, NDArray[Any]] = {f"{name}.int8": whole, f"{name}.scale": scale}
    return Stored(arrays, onnx.helper.make_node("DequantizeLinear", list(arrays), [name], axis=axis % values.ndim))


def _channel_axes(graph: Any) -> dict[str, int]:
    """The channel axis of each input that one kind of operator reads, as its weight."""
    axes: dict[str, set[int | None]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            axes.setdefault(name, set()).add(_axis(node, position))
    return {name: axis for name, (axis, *others) in axes.items() if axis is not None and not others}


def _axis(node: Any, position: int) -> int | None:
    """The channel axis of this input, or None if it is not the weight of a quantized operator."""
    if node.op_type == "Gemm" and position == 1:
        is_transposed = any(item.name == "transB" and item.i for item in node.attribute)
        return 0 if is_transposed else -1
    weight_position = 0 if node.op_type == "Gather" else 1
    return CHANNEL_AXIS.get(node.op_type) if position == weight_position else None
