"""Copies are found even if saved differently; pictures that only share a layout or a shape are kept."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from naruto_add.data.duplicates import Duplicate, Fingerprint, find_duplicates, fingerprint
from naruto_add.data.shinobi.draw import draw_shinobi


def _recompressed(image: Image.Image) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=75)
    return Image.open(stream).convert("RGB")


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    return [draw_shinobi(index, seed=3, size_px=64).image for index in range(40)]


def _found(images: list[Image.Image], distance: int = 4) -> list[Duplicate]:
    return find_duplicates([fingerprint(image) for image in images], distance=distance)


def test_different_drawings_are_kept(drawings: list[Image.Image]) -> None:
    assert _found(drawings) == []


def test_exact_copies_are_found(drawings: list[Image.Image]) -> None:
    found = _found([*drawings, drawings[3].copy(), drawings[3].copy()], distance=0)
    assert found == [Duplicate(position=40 + i, original=3, kind="duplicate") for i in range(2)]


@pytest.mark.parametrize(
    "change",
    [
        _recompressed,
        lambda image: image.resize((32, 32), Image.Resampling.LANCZOS).resize((64, 64), Image.Resampling.LANCZOS),
        lambda image: image.resize((200, 200), Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.LANCZOS),
        lambda image: ImageEnhance.Brightness(image).enhance(1.04),
    ],
    ids=["recompressed", "blurred", "rescaled", "brightened"],
)
def test_near_copies_are_found(drawings: list[Image.Image], change: Callable[[Image.Image], Image.Image]) -> None:
    found = _found([*drawings, *map(change, drawings)])
    assert {each.kind for each in found} == {"near_duplicate"}
    assert len(found) >= 38
    assert all(each.position == 40 + each.original for each in found)


def test_the_same_shapes_in_other_colors_are_another_picture(drawings: list[Image.Image]) -> None:
    red, green, blue = drawings[0].split()
    assert _found([drawings[0], Image.merge("RGB", (blue, green, red))], distance=32) == []


def test_plain_pictures_of_different_colors_are_kept() -> None:
    plain = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue", "white", "black")]
    assert _found(plain) == []


def test_a_mirrored_picture_is_not_a_copy(drawings: list[Image.Image]) -> None:
    assert _found([drawings[1], ImageOps.mirror(drawings[1])]) == []


def test_distance_is_the_number_of_different_bits() -> None:
    prints = [Fingerprint(content=str(bits), structure=bits, thumbnail=bytes(192)) for bits in (0, 0b111, 2**63)]
    assert [each.position for each in find_duplicates(prints, distance=0)] == []
    assert [each.position for each in find_duplicates(prints, distance=1)] == [2]
    assert [each.position for each in find_duplicates(prints, distance=3)] == [1, 2]


def test_pictures_are_compared_only_with_those_that_are_kept() -> None:
    chain = [Fingerprint(content=str(bits), structure=bits, thumbnail=bytes(192)) for bits in (0, 0b11, 0b1111)]
    assert [(each.position, each.original) for each in find_duplicates(chain, distance=2)] == [(1, 0)]


def test_the_original_of_a_near_copys_exact_copy_is_the_picture_that_is_kept() -> None:
    prints = [Fingerprint(content=name, structure=0, thumbnail=bytes(192)) for name in "abb"]
    assert [each.original for each in find_duplicates(prints, distance=0)] == [0, 0]


def test_no_pictures_have_no_duplicates() -> None:
    assert find_duplicates([], distance=4) == []


def test_five_thousand_random_hashes_have_no_duplicates() -> None:
    generator = np.random.default_rng(0)
    structures = generator.integers(0, 2**63, 5000)
    prints = [Fingerprint(content=str(i), structure=int(s), thumbnail=bytes(192)) for i, s in enumerate(structures)]
    assert find_duplicates(prints, distance=2) == []
