"""What all families of training pictures share: the record, the colours and a small drawing surface.

Coordinates run from 0 to 64 in both directions, whatever the picture's size. Shapes are drawn without
anti-aliasing on a surface four times as large, which is then averaged down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
T = TypeVar("T")

EXTENT = 64.0
SUPERSAMPLING = 4

HAIR_COLORS: dict[str, Color] = {
    "black": (38, 34, 40),
    "brown": (116, 70, 36),
    "blond": (232, 196, 104),
    "red": (196, 40, 36),
    "orange": (240, 130, 36),
    "white": (246, 244, 240),
    "grey": (156, 158, 164),
    "blue": (50, 98, 210),
    "green": (64, 160, 72),
    "pink": (246, 140, 186),
    "purple": (134, 70, 180),
    "yellow": (252, 222, 48),
}
CLOTH_COLORS: dict[str, Color] = {
    "red": (206, 52, 48),
    "blue": (58, 104, 204),
    "green": (66, 150, 76),
    "yellow": (246, 210, 70),
    "orange": (238, 136, 48),
    "purple": (132, 80, 172),
    "pink": (240, 150, 184),
    "white": (242, 240, 234),
    "black": (50, 48, 54),
    "grey": (146, 148, 154),
    "brown": (130, 86, 52),
    "beige": (222, 200, 162),
}
PLAIN_COLORS: dict[str, Color] = {
    "white": (248, 248, 246),
    "grey": (176, 178, 182),
    "black": (34, 34, 38),
    "blue": (108, 158, 228),
    "green": (124, 190, 120),
    "red": (220, 92, 84),
    "yellow": (248, 222, 116),
    "orange": (246, 172, 96),
    "pink": (248, 188, 208),
    "purple": (166, 128, 202),
    "brown": (166, 124, 88),
    "beige": (236, 222, 196),
}
SKIN_COLORS: tuple[Color, ...] = (
    (252, 222, 196),
    (246, 206, 172),
    (234, 184, 142),
    (212, 156, 110),
    (174, 116, 76),
    (132, 86, 58),
    (98, 64, 46),
)

_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 36, endpoint=False)), np.sin(np.linspace(0, 2 * np.pi, 36, endpoint=False))],
    axis=1,
)
_STEPS = np.arange(6)[:, None] / 6
_CATMULL_ROM = 0.5 * np.concatenate(
    [
        -_STEPS + 2 * _STEPS**2 - _STEPS**3,
        2 - 5 * _STEPS**2 + 3 * _STEPS**3,
        _STEPS + 4 * _STEPS**2 - 3 * _STEPS**3,
        -(_STEPS**2) + _STEPS**3,
    ],
    axis=1,
)


@dataclass(frozen=True)
class Drawing:
    """One training picture: a square RGB image, a caption that is true of it, and what was drawn ('none' if absent)."""

    image: Image.Image
    caption: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Surface:
    """A picture that is being drawn, in affine coordinates: pixel = matrix @ point + offset."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    matrix: np.ndarray
    offset: np.ndarray

    def within(self, origin: tuple[float, float], scale: tuple[float, float], tilt: float = 0.0) -> "Surface":
        """The same picture in other coordinates: scaled, then turned by `tilt` radians, then moved to `origin`."""
        turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        return Surface(self.image, self.pen, self.matrix @ turn @ np.diag(scale), self._place(np.array(origin)))

    def polygon(self, points: Points | np.ndarray, fill: Color) -> None:
        self.pen.polygon(self._flat(points), fill=fill)

    def curve(self, points: Points | np.ndarray, fill: Color) -> None:
        """Fill the closed smooth (Catmull-Rom) curve through the points."""
        knots = np.asarray(points, dtype=float)
        around = np.stack([np.roll(knots, shift, axis=0) for shift in (1, 0, -1, -2)])
        smooth = np.einsum("sk,knd->nsd", _CATMULL_ROM, around).reshape(-1, 2)
        self.polygon(smooth, fill)

    def ellipse(self, center: tuple[float, float], radii: tuple[float, float], fill: Color) -> None:
        self.polygon(_CIRCLE * radii + np.array(center), fill)

    def circle(self, center: tuple[float, float], radius: float, fill: Color) -> None:
        self.ellipse(center, (radius, radius), fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def stroke(self, points: Points | np.ndarray, width: float, fill: Color) -> None:
        """Draw an open line with round joints; `width` is in the frame's units."""
        width_px = width * float(np.sqrt(abs(np.linalg.det(self.matrix))))
        self.pen.line(self._flat(points), fill=fill, width=max(1, round(width_px)), joint="curve")

    def arc(
        self,
        center: tuple[float, float],
        radii: tuple[float, float],
        start: float,
        end: float,
        width: float,
        fill: Color,
    ) -> None:
        """Draw part of an ellipse's edge; angles in radians, growing clockwise from the right."""
        angles = np.linspace(start, end, 14)
        self.stroke(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + np.array(center), width, fill)

    def _flat(self, points: Points | np.ndarray) -> list[float]:
        return self._place(np.asarray(points, dtype=float)).ravel().tolist()

    def _place(self, points: np.ndarray) -> np.ndarray:
        placed: np.ndarray = points @ self.matrix.T + self.offset
        return placed


def new_surface(size_px: int, fill: Color) -> Surface:
    """A surface of one colour whose coordinates run from 0 to 64; `finished` reduces it to size_px."""
    side_px = size_px * SUPERSAMPLING
    image = Image.new("RGB", (side_px, side_px), fill)
    return Surface(image, ImageDraw.Draw(image), np.eye(2) * side_px / EXTENT, np.zeros(2))


def finished(surface: Surface, *, brightness: float = 1.0) -> Image.Image:
    """The surface reduced to the picture's size, every channel multiplied by `brightness`."""
    image = surface.image.reduce(SUPERSAMPLING)
    return image.point([min(255, round(level * brightness)) for level in range(256)] * 3)


def picture_generator(seed: int, index: int, *, family: int) -> np.random.Generator:
    """A generator that depends on the seed, the family of pictures and the index only."""
    return np.random.default_rng((seed, family, index))


def choose(generator: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(generator.integers(len(options)))]


def choose_weighted(generator: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, with probability proportional to its weight."""
    edges = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(edges, generator.random() * edges[-1], side="right"))]


def chance(generator: np.random.Generator, probability: float) -> bool:
    return bool(generator.random() < probability)


def jittered(generator: np.random.Generator, color: Color, amount: float = 9) -> Color:
    """The colour with a random shift of its lightness, and a smaller one of each channel."""
    moved = np.array(color) + generator.normal(0, amount) * 0.7 + generator.normal(0, amount, 3) * 0.5
    red, green, blue = np.clip(moved, 0, 255).astype(int).tolist()
    return red, green, blue


def mixed(first: Color, second: Color, share: float) -> Color:
    """`share` of the second colour in the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(color: Color, share: float = 0.2) -> Color:
    return mixed(color, (20, 16, 30), share)


def lighter(color: Color, share: float = 0.3) -> Color:
    return mixed(color, (255, 255, 255), share)


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
