"""The benchmark of drawing on a CPU: its two ways differ in what it says they do."""

import pytest
import torch

from benchmarks.cpu_threads import channels_first, one_at_a_time_and_in_threads
from naruto_add.comparison.subjects import Subject
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import dpm_solver_sampler
from naruto_add.runtime.threads import num_at_once


def test_the_first_way_does_one_computation_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found: list[int] = []

    for way in one_at_a_time_and_in_threads(lambda: found.append(num_at_once())).values():
        way()

    assert found == [1, 2]


def test_only_the_copy_has_torchs_default_memory_layout(tiny_bundle: ModelBundle) -> None:
    tiny_bundle.unet.to(memory_format=torch.channels_last)
    copied = channels_first(Subject(tiny_bundle, dpm_solver_sampler(tiny_bundle, 2, 3.0), "weights"))

    weight = tiny_bundle.unet.conv_in.weight
    assert copied.bundle.unet.conv_in.weight.is_contiguous() and not weight.is_contiguous()
    assert torch.equal(copied.bundle.unet.conv_in.weight, weight)
