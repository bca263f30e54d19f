"""`Pen`: smooth, outlined, cel-shaded shapes on a Pillow picture, in units of 1/64 of its side."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw

from naruto_add.data.shinobi.palette import Color, darker, outlined

Points = NDArray[np.float64]

_STEPS = np.linspace(0.0, 1.0, 6, endpoint=False)
_CATMULL_ROM = np.stack(
    [
        0.5 * (-_STEPS + 2 * _STEPS**2 - _STEPS**3),
        0.5 * (2 - 5 * _STEPS**2 + 3 * _STEPS**3),
        0.5 * (_STEPS + 4 * _STEPS**2 - 3 * _STEPS**3),
        0.5 * (-(_STEPS**2) + _STEPS**3),
    ],
    axis=1,
)
_ANGLES = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_SHARP_COSINE = 0.94  # of 20 degrees: a line that turns by less has no visible gap and needs no round joint
_THIN_PX = 3  # lines this thin have no visible gaps


def loop(points: ArrayLike) -> Points:
    """A closed smooth (Catmull-Rom) curve through the points."""
    knots = np.asarray(points, dtype=float)
    padded = np.concatenate([knots[-1:], knots, knots[:2]])
    return _spline(padded)


def path(points: ArrayLike) -> Points:
    """An open smooth (Catmull-Rom) curve through the points."""
    knots = np.asarray(points, dtype=float)
    padded = np.concatenate([knots[:1], knots, knots[-1:]])
    return np.concatenate([_spline(padded), knots[-1:]])


def oval(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """An ellipse around (x, y)."""
    return _CIRCLE * (radius_x, radius_y) + (x, y)


def mirrored(points: ArrayLike) -> Points:
    """The points reflected in the axis x = 0."""
    return np.asarray(points, dtype=float) * (-1, 1)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """The four corners of an upright rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


@dataclass(frozen=True, kw_only=True)
class Pen:
    """Draws on `canvas` through the affine `frame` (2x3, local units to canvas pixels)."""

    canvas: Image.Image
    draw: ImageDraw.ImageDraw
    frame: Points
    unit_px: float
    line: float
    light: tuple[float, float]

    def moved(self, x: float, y: float, *, scale: float = 1.0, degrees: float = 0.0, flip: bool = False) -> "Pen":
        """A pen with its origin at this pen's (x, y), then mirrored, scaled and rotated clockwise."""
        cos, sin = np.cos(np.radians(degrees)) * scale, np.sin(np.radians(degrees)) * scale
        side = -1.0 if flip else 1.0
        local = np.array([[cos * side, -sin, x], [sin * side, cos, y], [0.0, 0.0, 1.0]])
        return replace(self, frame=self.frame @ local)

    def fill(self, points: ArrayLike, color: Color) -> None:
        """Fills a polygon with one colour, without an outline."""
        self.draw.polygon(self._placed(points).ravel().tolist(), fill=color)

    def shape(self, points: ArrayLike, color: Color, *, shade: float = 2.0, width: float = 1.0) -> None:
        """Fills and outlines a polygon, with a shadow `shade` units wide on the side away from the light."""
        outline = self._placed(points)
        self.draw.polygon(outline.ravel().tolist(), fill=color)
        if shade > 0:
            self._shade(outline, darker(color), shade)
        if width > 0:
            self._outline(np.vstack([outline, outline[:2]]), outlined(color), width)

    def gradient(self, top: Color, bottom: Color) -> None:
        """Covers the canvas with a vertical gradient."""
        width, height = self.canvas.size
        rows = np.linspace(top, bottom, height).round().astype(np.uint8)
        self.canvas.paste(Image.fromarray(np.repeat(rows[:, None], width, axis=1)))

    def inlay(self, clip: ArrayLike, points: ArrayLike, color: Color) -> None:
        """Fills the part of the polygon `points` that is inside the polygon `clip`."""
        outer, inner = self._placed(clip), self._placed(points)
        corner, outer_mask = _mask(outer)
        inner_mask = Image.new("L", outer_mask.size)
        ImageDraw.Draw(inner_mask).polygon((inner - corner).ravel().tolist(), fill=255)
        self._paste(corner, ImageChops.darker(outer_mask, inner_mask), color)

    def brush(self, points: ArrayLike, color: Color, *, width: float) -> None:
        """Draws a stroke that is `width` units thick in the middle and tapers towards both ends."""
        line = np.asarray(points, dtype=float)
        along = np.concatenate([line[1:2] - line[:1], line[2:] - line[:-2], line[-1:] - line[-2:-1]])
        normal = along[:, ::-1] * (-1, 1)
        normal /= np.maximum(np.hypot(normal[:, :1], normal[:, 1:]), 1e-9)
        reach = normal * (0.12 + 0.88 * np.sin(np.linspace(0.0, np.pi, len(line))))[:, None] * width / 2
        self.fill(np.vstack([line + reach, (line - reach)[::-1]]), color)

    def _placed(self, points: ArrayLike) -> Points:
        return np.asarray(points, dtype=float) @ self.frame[:2, :2].T + self.frame[:2, 2]

    def _shade(self, outline: Points, color: Color, depth: float) -> None:
        corner, mask = _mask(outline)
        scale = np.sqrt(abs(np.linalg.det(self.frame[:2, :2])))
        lit = outline - corner + np.asarray(self.light) * depth * scale
        ImageDraw.Draw(mask).polygon(lit.ravel().tolist(), fill=0)
        self._paste(corner, mask, color)

    def _outline(self, line: Points, color: Color, width: float) -> None:
        width_px = max(1, round(width * self.line * self.unit_px))
        self.draw.line(line.ravel().tolist(), fill=color, width=width_px)
        if width_px <= _THIN_PX:
            return
        radius = (width_px - 1) / 2
        for x, y in _sharp_corners(line).tolist():
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    def _paste(self, corner: Points, mask: Image.Image, color: Color) -> None:
        left, top = int(corner[0]), int(corner[1])
        self.canvas.paste(color, (left, top, left + mask.width, top + mask.height), mask)


def _spline(padded: Points) -> Points:
    """Six points per segment of the Catmull-Rom curve from the second to the second to last control point."""
    pieces = len(padded) - 3
    windows = np.stack([padded[shift : pieces + shift] for shift in range(4)], axis=1)
    return (_CATMULL_ROM @ windows).reshape(-1, 2)


def _sharp_corners(line: Points) -> Points:
    """The inner points at which the line turns by more than 20 degrees."""
    along = np.diff(line, axis=0)
    before, after = along[:-1], along[1:]
    lengths = np.hypot(before[:, 0], before[:, 1]) * np.hypot(after[:, 0], after[:, 1])
    sharp: Points = line[1:-1][(before * after).sum(axis=1) < _SHARP_COSINE * lengths]
    return sharp


def _mask(outline: Points) -> tuple[Points, Image.Image]:
    """The upper left corner of the polygon's bounding box, and the polygon as a mask of that box's size."""
    corner = np.floor(outline.min(axis=0))
    width, height = (np.ceil(outline.max(axis=0)) - corner + 1).astype(int).tolist()
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon((outline - corner).ravel().tolist(), fill=255)
    return corner, mask
