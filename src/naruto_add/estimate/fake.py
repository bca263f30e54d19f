"""Peak memory and FLOPs of code that runs on fake tensors: nothing is computed, and no GPU is needed.

The figures are lower bounds for a GPU: they contain neither the CUDA context, nor the workspace of its convolutions,
nor the fragmentation of its memory. Fake tensors are on the CPU. Its attention kernel needs as much memory as a GPU's.
Its autocast computes norms in half precision, and a GPU's in fp32, which `materialized` imitates.
"""

import gc
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Module = TypeVar("Module", bound=nn.Module)

BLOCK = 512
"""A GPU's allocator rounds up to this many bytes."""


class Meter(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, and what `hold` is given, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        """Bytes that are alive now."""
        self.peak = 0
        """The most bytes that were alive at once since `start`."""
        self.flops = 0.0
        """Floating-point operations of products and convolutions; a multiplication and an addition are two."""
        self._alive: dict[int, weakref.ref[Any]] = {}

    def hold(self, *modules: nn.Module) -> None:
        """Count the weights of these modules."""
        for module in modules:
            for weight in (*module.parameters(), *module.buffers()):
                self._see(weight)

    def start(self) -> None:
        """Forget the peak so far."""
        gc.collect()
        self.peak = self.held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=output)
        for item in tree_leaves(output):
            if isinstance(item, Tensor):
                self._see(item)
        return output

    def _see(self, tensor: Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._alive:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def freed(_: Any) -> None:
            self._alive.pop(key, None)
            self.held -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.held += size
        self.peak = max(self.peak, self.held)


@contextmanager
def measuring() -> Generator[Meter]:
    """Within the block tensors are fake, and the meter counts their bytes and the FLOPs."""
    meter = Meter()
    with FakeTensorMode(allow_non_fake_inputs=True), meter:
        yield meter


@contextmanager
def on_meta() -> Generator[None]:
    """Within the block, which may be inside `measuring`, modules are made without storage and are not counted."""
    with unset_fake_temporarily(), torch.device("meta"):
        yield


def materialized(module: Module) -> Module:
    """The module, whose weights were made `on_meta` and are now fake tensors with bytes to count."""
    for part in module.modules():
        if isinstance(part, nn.GroupNorm | nn.LayerNorm):
            part.register_forward_pre_hook(_widen_under_autocast)
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                part._parameters[name] = nn.Parameter(_empty_like(weight), requires_grad=weight.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = _empty_like(buffer)
    return module


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _widen_under_autocast(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A GPU's autocast computes norms in fp32 and returns fp32; the CPU's leaves them in half precision."""
    return tuple(item.float() for item in inputs) if torch.is_autocast_enabled("cpu") else inputs
