"""Latencies and memory: what is counted."""

from types import SimpleNamespace

import pytest

from naruto_add.evaluation import speed
from naruto_add.evaluation.speed import milliseconds_of


def test_what_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 6.5])
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(times)))

    assert milliseconds_of(lambda: None) == 1500.0
