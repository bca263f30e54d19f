"""Computations in threads: their order, their share of torch's threads, and their errors."""

import threading
import time
from collections.abc import Generator

import pytest
import torch

from naruto_add.runtime.threads import MAX_AT_ONCE, compute_in_threads, num_at_once

TIMEOUT_S = 30


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(params=[2, 5])
def num_threads(request: pytest.FixtureRequest) -> Generator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_have_the_order_of_the_items(num_threads: int) -> None:
    def later_items_end_first(item: int) -> int:
        time.sleep(0.01 * (item % 2 == 0))
        return item**2

    assert compute_in_threads(later_items_end_first, range(20)) == [item**2 for item in range(20)]


def test_computations_run_at_once_and_share_the_threads(num_threads: int) -> None:
    number = num_at_once()
    all_started = threading.Barrier(number, timeout=TIMEOUT_S)

    def threads_of_torch(item: int) -> int:
        all_started.wait()  # fails unless all of them run at once
        return torch.get_num_threads()

    assert compute_in_threads(threads_of_torch, range(number)) == [num_threads // number] * number
    assert number == min(num_threads, MAX_AT_ONCE)


def test_afterwards_old_and_new_threads_have_all_of_torchs_threads(num_threads: int) -> None:
    compute_in_threads(lambda item: item, range(8))

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *found] == [num_threads, num_threads]


def test_an_error_ends_the_computations(num_threads: int) -> None:
    done: list[int] = []

    def fail_at_second(item: int) -> None:
        if item == 1:
            raise ValueError("bad picture")
        time.sleep(0.5 if item == 0 else 0.01)
        done.append(item)

    with pytest.raises(ValueError, match="bad picture"):
        compute_in_threads(fail_at_second, range(1_000))
    assert len(done) < 10  # although the first item ends long after the error
    assert torch.get_num_threads() == num_threads


@pytest.mark.parametrize("on_gpu", [False, True])
def test_one_thread_and_a_gpu_compute_one_after_the_other(monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4 if on_gpu else 1)

    assert num_at_once() == 1
    assert set(compute_in_threads(lambda _: threading.get_ident(), range(5))) == {threading.get_ident()}
