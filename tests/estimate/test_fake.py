"""Bytes and FLOPs counted on fake tensors are those of closed forms."""

import torch
import torch.nn.functional as F
from torch import nn

from naruto_add.estimate.fake import materialized, measuring, on_meta
from naruto_add.runtime.units import MIB


def _layer(width: int, *, requires_grad: bool = True) -> nn.Linear:
    with on_meta():
        layer = nn.Linear(width, width, bias=False)
    return materialized(layer.requires_grad_(requires_grad))


def test_the_peak_is_the_most_that_is_alive_at_once() -> None:
    with measuring() as meter:
        kept = torch.empty(MIB, dtype=torch.uint8)
        freed = torch.empty(3 * MIB, dtype=torch.uint8)
        del freed
        other = torch.empty(2 * MIB, dtype=torch.uint8)
    assert meter.peak == 4 * MIB
    assert meter.held == 3 * MIB
    del kept, other


def test_views_share_their_storage() -> None:
    with measuring() as meter:
        whole = torch.empty(MIB, dtype=torch.uint8)
        parts = whole.view(2, -1), whole[5:]
    assert meter.peak == MIB
    del parts


def test_nothing_is_allocated_for_a_network_of_a_terabyte() -> None:
    with measuring() as meter:
        layer = _layer(2**19)
        meter.hold(layer)
    assert meter.held == 2**19 * 2**19 * 4


def test_training_needs_weights_gradient_and_activations_and_three_products() -> None:
    batch, width = 1024, 1024
    with measuring() as meter:
        layer = _layer(width)
        meter.hold(layer)
        meter.start()
        inputs = torch.empty(batch, width, requires_grad=True)
        layer(inputs).sum().backward()
    matrix = width * width * 4
    assert meter.flops == 3 * 2 * batch * width * width
    assert 4 * matrix <= meter.peak <= 6 * matrix  # weight and its gradient, inputs and theirs, then the output


def test_under_autocast_norms_return_fp32_and_products_half_precision_as_on_a_gpu() -> None:
    with measuring(), torch.autocast("cpu", torch.bfloat16):
        hidden = _layer(64)(torch.empty(8, 64))
        assert hidden.dtype == torch.bfloat16
        with on_meta():
            norms = nn.ModuleList([nn.LayerNorm(64), nn.GroupNorm(4, 64)])
        assert [norm(hidden).dtype for norm in materialized(norms)] == [torch.float32, torch.float32]


def test_attention_does_not_store_its_weights() -> None:
    """Memory is, as with a GPU's fused kernels, linear in the number of positions."""
    peaks = []
    for length in (1024, 4096):
        with measuring() as meter:
            query = torch.empty(1, 8, length, 64, requires_grad=True)
            F.scaled_dot_product_attention(query, query, query).sum().backward()
        peaks.append(meter.peak)
    assert peaks[1] < 4.5 * peaks[0]
