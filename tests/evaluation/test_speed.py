import time

from naruto_add.evaluation.speed import latencies_ms


def test_the_first_call_warms_up_and_is_not_counted() -> None:
    calls: list[int] = []

    def draw() -> None:
        time.sleep(0.2 if not calls else 0.01)
        calls.append(1)

    times = latencies_ms(draw, repeats=3)

    assert len(calls) == 4
    assert len(times) == 3
    assert 10 <= times.min() <= times.max() < 150
