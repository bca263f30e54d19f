from types import SimpleNamespace

import pytest

from naruto_add.evaluation import speed
from naruto_add.evaluation.speed import latencies_ms


def test_the_first_call_warms_up_and_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    durations, now = iter([20.0, 1.0, 3.0, 2.0]), 0.0
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: now))

    def draw() -> None:
        nonlocal now
        now += next(durations)

    assert latencies_ms(draw, repeats=3).tolist() == [1000.0, 3000.0, 2000.0]
    assert not list(durations)
