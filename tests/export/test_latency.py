"""Formats are timed with their networks where they work, and afterwards every network is where it was before."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from naruto_add.export.latency import MAX_ROUNDS, MAX_SECONDS, Job, time_all

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class _Network(nn.Module):
    """Says where it is, and moves nothing: a machine without a GPU has one device only."""

    def __init__(self) -> None:
        super().__init__()
        self.device = CPU

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        yield SimpleNamespace(device=self.device)

    def to(self, device: torch.device | str) -> "_Network":
        self.device = torch.device(device)
        return self


@dataclass
class _Bundle:
    """What is used of a `ModelBundle`."""

    networks: tuple[_Network, ...] = field(default_factory=lambda: (_Network(), _Network(), _Network()))
    device: torch.device = GPU

    def places(self) -> set[str]:
        return {str(network.device) for network in self.networks}


def test_the_student_is_timed_on_both_devices_and_is_then_where_it_was() -> None:
    bundles = {"student": _Bundle(), "teacher": _Bundle()}
    seen: list[tuple[str, set[str], set[str]]] = []
    """Where the bundle works that draws, where its networks are, and where those of both bundles are."""

    def draw_by(bundle: _Bundle) -> Any:
        return lambda batch: seen.append(
            (str(bundle.device), bundle.places(), {place for item in bundles.values() for place in item.places()})
        )

    def draw_by_onnx(batch: int) -> None:
        assert all(item.places() == {"cpu"} for item in bundles.values())

    given: Any = bundles
    found = time_all(given, draw_by, jobs={}, cpu_jobs={"onnx": Job(draw_by_onnx)})
    assert found.keys() == {"student", "teacher", "student_cpu", "onnx"}
    assert {(device, *places) for device, places, _ in seen} == {("cuda", "cuda"), ("cpu", "cpu")}
    assert all(everywhere == ({"cuda", "cpu"} if device == "cuda" else {"cpu"}) for device, _, everywhere in seen)
    assert bundles["student"].device == GPU
    assert all(item.places() == {"cpu"} for item in bundles.values())


def test_times_are_those_of_the_given_clock() -> None:
    """A clock that advances by a second per look: a drawing takes one, and a long round is the only one."""
    cpu: Any = {"student": _Bundle(device=CPU)}
    for seconds, num_rounds in ((1.0, MAX_ROUNDS), (MAX_SECONDS, 1)):
        ticks, drawn = count(step=seconds), []
        found = time_all(cpu, lambda _: drawn.append, jobs={}, cpu_jobs={}, clock=lambda: next(ticks))  # noqa: B023
        assert found == {"student": {f"latency_batch_{batch}_ms": 1000 * seconds for batch in (1, 8)}}
        assert drawn == [1] * (1 + num_rounds) + [8] * (1 + num_rounds)
