"""Aspect buckets: picture sizes of about one area, so that a wide or tall picture loses little to cropping.

The sizes and the choice among them are diffusers' own (`diffusers.training_utils`).
"""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from naruto_add.data.dataset import Example
from naruto_add.data.images import Size


def bucket_sizes(resolution_px: int, *, multiple_px: int) -> tuple[Size, ...]:
    """The sizes, the square first: aspects from 1:2 to 2:1 at the square's area, each side a multiple of `multiple_px`.

    Sides are rounded, so areas differ from the square's, most where `multiple_px` is not small against the resolution.
    """
    from diffusers.training_utils import generate_aspect_ratio_buckets  # takes seconds; only buckets need it

    return tuple((width, height) for height, width in generate_aspect_ratio_buckets(resolution_px, multiple_px))


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect is nearest to that of a picture of this size."""
    from diffusers.training_utils import find_nearest_bucket  # takes seconds, as well

    width, height = size
    return buckets[find_nearest_bucket(height, width, [(bucket[1], bucket[0]) for bucket in buckets])]


def by_size(examples: Sequence[Example]) -> dict[Size, list[Example]]:
    """The examples by the size of their aspect buckets, in ascending order, with the bucket's picture as their picture.

    Without buckets all have one size, and the group is the examples as they are.
    """
    groups: dict[Size, list[Example]] = {}
    for example in examples:
        path = example.bucket_path or example.image_path
        with Image.open(path) as image:  # reads the header only
            groups.setdefault(image.size, []).append(replace(example, image_path=path))
    return dict(sorted(groups.items()))
