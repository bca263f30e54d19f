"""Computed tensors are stored once under their key; damaged and foreign files are errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from naruto_add.runtime.cache import cache_path, cached_tensors, hash_array, hash_model, hash_state
from naruto_add.runtime.errors import StageError


def _tensors() -> dict[str, Tensor]:
    return {
        "distances": torch.tensor([0.1, 1 / 3], dtype=torch.float64),
        "images": torch.arange(24, dtype=torch.uint8).reshape(1, 2, 4, 3),
        "rows": torch.tensor([2**40, -1]),
        "latents": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "threads": torch.tensor(4),
        "empty": torch.zeros(0, 4),
    }


def _never() -> Mapping[str, Tensor]:
    raise AssertionError("computed although the file exists")


def test_tensors_are_computed_once_and_keep_values_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.safetensors"

    first = cached_tensors(path, key="key", compute=_tensors)
    second = cached_tensors(path, key="key", compute=_never)

    for stored in (first, second):
        assert stored.keys() == _tensors().keys()
        for name, tensor in _tensors().items():
            assert stored[name].dtype == tensor.dtype
            assert torch.equal(stored[name], tensor)


def test_views_of_one_tensor_are_stored_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    stored = cached_tensors(
        tmp_path / "a.safetensors", key="key", compute=lambda: {"row": whole[1], "turned": whole.T, "whole": whole}
    )
    assert stored["row"].tolist() == [3, 4, 5]
    assert torch.equal(stored["turned"], whole.T)


def test_a_file_with_another_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    cached_tensors(path, key="seed 0", compute=_tensors)
    with pytest.raises(StageError, match=r"a\.safetensors: .* other data, weights or options; delete it and run again"):
        cached_tensors(path, key="seed 1", compute=_never)


def test_a_safetensors_file_without_a_key_is_an_error(tmp_path: Path) -> None:
    save_file(_tensors(), tmp_path / "a.safetensors")
    with pytest.raises(StageError, match="other data, weights or options"):
        cached_tensors(tmp_path / "a.safetensors", key="key", compute=_never)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no safetensors", "a folder"])
def test_a_damaged_file_is_an_error_that_names_it(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    cached_tensors(path, key="key", compute=_tensors)
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": content[:-5], "empty": b"", "no safetensors": b"PK" * 100}[damage])
    with pytest.raises(StageError, match=r"a\.safetensors: this cache file is damaged .*; delete it and run again"):
        cached_tensors(path, key="key", compute=_never)


def test_a_failed_computation_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> Mapping[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_tensors(tmp_path / "a.safetensors", key="key", compute=interrupted)

    assert not list(tmp_path.iterdir())


def test_the_path_follows_values_and_the_content_of_files(tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"a")
    before = cache_path(tmp_path, "images", 1, file)
    assert before == cache_path(tmp_path, "images", 1, file)
    assert before.parent == tmp_path
    assert before != cache_path(tmp_path, "images", 2, file)
    file.write_bytes(b"b")
    assert before != cache_path(tmp_path, "images", 1, file)


def test_the_hash_of_an_array_depends_on_values_shape_and_dtype() -> None:
    array = np.arange(6, dtype=np.uint8)
    others = [array[::-1], array.reshape(2, 3), array.astype(np.int8)]
    assert hash_array(array) == hash_array(array.copy())
    assert len({hash_array(each) for each in (array, *others)}) == 4


class _Scale(nn.Module):
    def __init__(self, **config: object) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(3))


def test_the_hash_of_a_model_depends_on_weights_dtype_and_configuration_but_not_on_its_path() -> None:
    model = _Scale(factor=1, _name_or_path="here")
    before = hash_model(model)
    assert hash_model(_Scale(factor=1, _name_or_path="elsewhere")) == before
    assert hash_model(_Scale(factor=2)) != before
    assert hash_model(_Scale(factor=1).half()) != before
    with torch.no_grad():
        model.weight[0] += 1e-6
    assert hash_model(model) != before


@pytest.mark.parametrize("position", range(1, 80, 7))
def test_a_flipped_byte_is_an_error_that_names_the_file(position: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    cached_tensors(path, key="key", compute=_tensors)
    content = bytearray(path.read_bytes())
    content[-position] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"a\.safetensors: this cache file .*; delete it and run again"):
        cached_tensors(path, key="key", compute=_never)


def test_the_hash_of_a_state_depends_on_values_names_types_and_order() -> None:
    states = [
        {"a": [torch.ones(2), 1], "b": "x"},
        {"a": [torch.ones(2), 1.0], "b": "x"},
        {"a": [1, torch.ones(2)], "b": "x"},
        {"a": [torch.ones(2).half(), 1], "b": "x"},
        {"a": [torch.ones(2, 1), 1], "b": "x"},
        {"a": [torch.ones(2), [1]], "b": "x"},
        {"b": [torch.ones(2), 1], "a": "x"},
        {"a": [torch.ones(2), 1], "b": None},
    ]
    assert len({hash_state(state) for state in states}) == len(states)
    assert hash_state({"b": "x", "a": [torch.ones(2), 1]}) == hash_state(states[0])
