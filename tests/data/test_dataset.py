"""The data set as later stages read it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.runtime import StageError


def test_splits_come_in_the_files_order(tiny_dataset_dir: Path) -> None:
    splits = [load_split(tiny_dataset_dir, split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [16, 4, 4]
    names = [example.image_path.name for split in splits for example in split]
    assert names == [f"{index:05d}.png" for index in range(24)]


def test_an_example_holds_its_caption_and_the_other_columns(tiny_dataset_dir: Path) -> None:
    example = load_split(tiny_dataset_dir, "train")[0]
    assert example.caption
    assert "hair_color" in example.attributes
    assert not {"file_name", "text", "split"} & set(example.attributes)


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a", "split": "train"}\n')
    with pytest.raises(StageError, match="holds no test pictures"):
        load_split(tmp_path, "test")


def test_fault_6_pixels_are_exact_and_in_the_autoencoders_range(tmp_path: Path, tiny_dataset_dir: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a\u2028b", "split": "train"}\n')
    (example,) = load_split(tmp_path, "train")
    pixels = load_pixels([example])
    assert (tuple(pixels.shape), pixels.dtype) == ((1, 3, 16, 16), torch.float32)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert torch.equal(((pixels[0, 0] + 1) * 127.5).round(), torch.from_numpy(levels).float())
    assert torch.equal(pixels[0, 1], pixels[0, 0].T)
    assert load_pixels(load_split(tiny_dataset_dir, "test")).shape == (4, 3, 32, 32)
