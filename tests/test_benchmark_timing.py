"""Calls of a benchmark are timed in rounds, and the ratio of two of them does not depend on the machine's speed."""

import pytest

from benchmarks.timing import median, median_seconds, time_rounds


def test_every_call_is_timed_once_a_round_and_the_first_round_is_not_counted() -> None:
    made: list[str] = []
    rounds = time_rounds({name: lambda name=name: made.append(name) for name in "ab"}, 3)
    assert made == list("ab") * 4
    assert [set(seconds) for seconds in rounds] == [{"a", "b"}] * 3
    assert all(value >= 0 for seconds in rounds for value in seconds.values())


def test_a_machine_that_becomes_slower_leaves_the_ratio_as_it_is() -> None:
    rounds = [{"a": 3 * speed, "b": speed} for speed in (1.0, 5.0, 2.0)]
    rounds[1]["a"] = 1.0  # one of the three rounds was disturbed
    assert median_seconds(rounds) == {"a": 3.0, "b": 2.0}
    assert median(rounds, lambda seconds: seconds["a"] / seconds["b"]) == pytest.approx(3)
