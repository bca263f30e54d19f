"""The data set as later stages read it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.runtime.errors import StageError


def _write_row(folder: Path, **row: str) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8")


def test_splits_keep_the_order_of_the_file(tiny_dataset_dir: Path) -> None:
    splits = [
        load_split(tiny_dataset_dir, split, prompt_template="{caption}") for split in ("train", "validation", "test")
    ]
    assert [len(split) for split in splits] == [16, 4, 4]
    names = [example.image_path.name for split in splits for example in split]
    assert names == [f"{index:05d}.png" for index in range(24)]


def test_an_example_has_its_caption_its_prompt_and_the_other_columns(tmp_path: Path) -> None:
    _write_row(tmp_path, file_name="images/a.png", text="a man", split="train", source="a", hair_color="red")
    (example,) = load_split(tmp_path, "train", prompt_template="{caption}, in ink")
    assert example.image_path == tmp_path / "images/a.png"
    assert (example.caption, example.prompt) == ("a man", "a man, in ink")
    assert example.attributes == {"source": "a", "hair_color": "red"}


def test_a_caption_may_contain_a_unicode_line_separator(tmp_path: Path) -> None:
    _write_row(tmp_path, file_name="a.png", text="a\u2028b", split="train")
    (example,) = load_split(tmp_path, "train", prompt_template="{caption}")
    assert example.caption == "a\u2028b"


def test_an_empty_split_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    _write_row(tmp_path, file_name="a.png", text="a", split="train")
    with pytest.raises(StageError, match=r"metadata\.jsonl: no test pictures; give `ingest` more pictures"):
        load_split(tmp_path, "test", prompt_template="{caption}")


@pytest.mark.parametrize(
    "content",
    [
        b'{"file_name": "a.png", "text": "a", "spl',
        b'{"file_name": "a.png", "text": "\xff", "split": "train"}\n',
        b'{"file_name": "a.png", "split": "train"}\n',
        b'{"file_name": "a.png", "text": "a"}\n',
        b'["a.png", "a", "train"]\n',
        b'{"file_name": 1, "text": "a", "split": "train"}\n',
    ],
    ids=["truncated", "not_utf8", "no_text", "no_split", "no_object", "no_name"],
)
def test_a_damaged_file_is_an_error_that_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(StageError, match=r"metadata\.jsonl: this file is damaged .*; delete .* and run `dvc repro`"):
        load_split(tmp_path, "train", prompt_template="{caption}")


def test_pixels_map_0_to_255_linearly_to_minus_1_to_1(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1)).save(tmp_path / "a.png")
    _write_row(tmp_path, file_name="a.png", text="a", split="train")
    pixels = load_pixels(load_split(tmp_path, "train", prompt_template="{caption}"))
    assert (tuple(pixels.shape), pixels.dtype) == ((1, 3, 16, 16), torch.float32)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert torch.equal(((pixels[0, 0] + 1) * 127.5).round(), torch.from_numpy(levels).float())
    assert torch.equal(pixels[0, 1], pixels[0, 0].T)


def test_pixels_are_stacked_in_the_given_order(tiny_dataset_dir: Path) -> None:
    examples = load_split(tiny_dataset_dir, "test", prompt_template="{caption}")
    pixels = load_pixels(examples)
    assert pixels.shape == (4, 3, 32, 32)
    assert torch.equal(load_pixels(examples[::-1]), pixels.flip(0))
