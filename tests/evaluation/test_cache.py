"""Cached arrays keep their shape, dtype and values."""

from pathlib import Path

import numpy as np

from naruto_add.evaluation.cache import Arrays, Cache, local_folder


def test_arrays_are_computed_once_per_key_and_keep_shape_dtype_and_values(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> Arrays:
        calls.append(1)
        return {
            "images": np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)[::2],
            "features": np.array([[0.1, -1e-300], [np.pi, 1e300]]).T,
            "scalar": np.array(3),
            "empty": np.array([]),
        }

    first = Cache(tmp_path).arrays("a", [1, 2], compute=compute)
    second = Cache(tmp_path).arrays("a", [1, 2], compute=compute)
    Cache(tmp_path).arrays("a", [1, 3], compute=compute)

    assert len(calls) == 2
    for name, expected in compute().items():
        for found in (first[name], second[name]):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected, strict=True)


def test_only_a_model_in_a_folder_has_a_local_folder(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path)) == [tmp_path]
    assert local_folder("owner/name") == []
