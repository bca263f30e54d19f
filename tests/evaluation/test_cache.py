"""Entries are computed once for their key."""

from pathlib import Path

import numpy as np
import pytest

from naruto_add.evaluation.cache import Arrays, cached


def test_a_key_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> Arrays:
        calls.append(1)
        return {"images": np.arange(6, dtype=np.uint8), "seconds": np.array(1.5)}

    first = cached(tmp_path, ["teacher", 1], make)
    second = cached(tmp_path, ["teacher", 1], make)

    assert len(calls) == 1
    assert all((first[name] == second[name]).all() and first[name].dtype == second[name].dtype for name in first)


def test_another_key_is_made_anew(tmp_path: Path) -> None:
    for seed in (0, 1):
        value = cached(tmp_path, ["teacher", seed], lambda seed=seed: {"seed": np.array(seed)})
        assert value["seed"] == seed


def test_nothing_is_left_of_a_failed_attempt(tmp_path: Path) -> None:
    def fail() -> Arrays:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, ["teacher"], fail)

    assert not list(tmp_path.iterdir())
