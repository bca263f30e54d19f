"""Aspect buckets: sizes of the square's area, the nearest of them, and the data set's pictures by size."""

import json
from pathlib import Path

import pytest
from PIL import Image

from naruto_add.data.buckets import bucket_sizes, by_size, nearest_bucket
from naruto_add.data.dataset import load_split

SD15 = bucket_sizes(512, multiple_px=64)


def test_the_square_comes_first_and_all_sizes_have_about_its_area() -> None:
    assert SD15[0] == (512, 512)
    assert len(SD15) == len(set(SD15)) > 4
    for width, height in SD15:
        assert width % 64 == height % 64 == 0
        assert width * height == pytest.approx(512**2, rel=0.1)
    assert {(height, width) for width, height in SD15} == set(SD15)


def test_sizes_are_multiples_of_what_a_base_model_needs() -> None:
    assert all(width % 32 == height % 32 == 0 for width, height in bucket_sizes(64, multiple_px=32))


@pytest.mark.parametrize("size", [(300, 300), (1024, 1000), (500, 520)])
def test_a_picture_that_is_nearly_square_is_in_the_square_bucket(size: tuple[int, int]) -> None:
    assert nearest_bucket(size, SD15) == (512, 512)


@pytest.mark.parametrize("size", [(1500, 1000), (1920, 1080), (3000, 1000)])
def test_a_wide_picture_is_in_a_wide_bucket_and_a_tall_one_in_its_transpose(size: tuple[int, int]) -> None:
    width, height = nearest_bucket(size, SD15)
    assert width > height
    assert nearest_bucket(size[::-1], SD15) == (height, width)
    kept = min(size[0] / size[1], width / height) / max(size[0] / size[1], width / height)
    kept_by_square = size[1] / size[0]
    assert kept > kept_by_square + 0.2


def test_examples_are_grouped_by_the_size_of_their_bucket(bucketed_dataset_dir: Path) -> None:
    examples = load_split(bucketed_dataset_dir, "train", prompt_template="{caption}")
    groups = by_size(examples)
    assert list(groups) == [(32, 32), (64, 32)]
    assert [len(group) for group in groups.values()] == [10, 6]
    for size, group in groups.items():
        for example in group:
            with Image.open(example.image_path) as image:
                assert image.size == size
    captions = [example.caption for example in examples if example.bucket_path]
    assert [example.caption for example in groups[64, 32]] == captions


def test_without_buckets_there_is_one_group_of_the_examples_as_they_are(tiny_dataset_dir: Path) -> None:
    examples = load_split(tiny_dataset_dir, "train", prompt_template="{caption}")
    assert by_size(examples) == {(32, 32): examples}


def test_the_bucket_is_no_attribute_of_a_picture(bucketed_dataset_dir: Path) -> None:
    rows = [json.loads(line) for line in (bucketed_dataset_dir / "metadata.jsonl").read_text().splitlines()]
    assert any(row["bucket_file"] for row in rows)
    examples = load_split(bucketed_dataset_dir, "train", prompt_template="{caption}")
    assert all("bucket_file" not in example.attributes for example in examples)
