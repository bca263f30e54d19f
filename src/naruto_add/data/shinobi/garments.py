"""Neck, shoulders and garment. The origin is the middle of the head; the bust extends below the picture."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.attributes import Attributes
from naruto_add.data.shinobi.palette import CLOTH, GOLD, WHITE, Color, blend, darker, jittered, lighter
from naruto_add.data.shinobi.pen import Pen, Points, box, loop, mirrored, oval, path

_SHOULDERS = {"man": 20.0, "woman": 16.0, "boy": 16.5, "girl": 15.0, "old man": 18.5, "ninja": 19.0}
_BOTTOM = 52.0


@dataclass(frozen=True)
class Dress:
    """The colours that the bust and the sleeves share."""

    cloth: Color
    sleeve: Color
    skin: Color


def dress_of(attributes: Attributes, skin: Color, generator: Generator) -> Dress:
    """The garment's colours. A vest, an armor or a scarf shows sleeves of another cloth."""
    cloth = jittered(CLOTH[attributes.garment_color], generator)
    under = ((72, 78, 106), (98, 92, 98)) if attributes.garment_color != "black" else ((150, 150, 168), (176, 160, 140))
    sleeve = under[generator.integers(2)] if attributes.garment in ("vest", "armor", "scarf") else cloth
    return Dress(cloth, sleeve, skin)


def draw_bust(pen: Pen, attributes: Attributes, dress: Dress, generator: Generator) -> None:
    """Draws the neck, the shoulders and the garment."""
    half = _SHOULDERS[attributes.subject] * generator.uniform(0.94, 1.06)
    pen.fill([(-5, 8), (5, 8), (5.6, 24), (-5.6, 24)], darker(dress.skin))
    match attributes.garment:
        case "vest":
            _vest(pen, half, dress)
        case "jacket":
            _jacket(pen, half, dress, generator)
        case "robe":
            _robe(pen, half, dress, generator)
        case "armor":
            _armor(pen, half, dress)
        case "scarf":
            _scarf(pen, half, dress, generator)
        case cloak:
            _cloak(pen, half, dress, clouds=cloak != "cloak")


def _torso(half: float, *, neck: float = 5.0) -> Points:
    side = path([(neck, 17.5), (half * 0.62, 20.5), (half, 25.5), (half + 2.5, 36), (half + 3, _BOTTOM)])
    return np.vstack([side, mirrored(side)[::-1]])


def _cloak(pen: Pen, half: float, dress: Dress, *, clouds: bool) -> None:
    body = _torso(half + 3, neck=6)
    pen.shape(body, dress.cloth, shade=4)
    if clouds:
        for x, y in ((-13, 27), (13, 27)):
            _cloud(pen, body, x, y)
    lining = (176, 50, 58) if clouds else lighter(dress.cloth)
    flap = np.array([(0, 25), (-5, 18), (-6.4, 9.5), (-12, 12), (-12, 20), (-6, 25)])
    for points in (flap, mirrored(flap)):
        pen.shape(points, dress.cloth, shade=0)
        pen.fill(points[:3] * (0.96, 1) + [(0, -1), (0, 0), (-2.6, 1)], lining)


def _cloud(pen: Pen, clip: Points, x: float, y: float) -> None:
    puffs = [(-7, 1.6), (-7, -1.6), (-3.8, -2.2), (-2.4, -5.4), (2, -5.4), (3.4, -2.8), (6.6, -2.4), (7, 1.6), (0, 2.6)]
    for size, color in ((1.2, (240, 200, 200)), (0.92, (214, 38, 48))):
        pen.inlay(clip, loop(puffs) * size + (x, y), color)


def _vest(pen: Pen, half: float, dress: Dress) -> None:
    pen.shape(_torso(half), dress.sleeve, shade=0)
    pen.fill([(-6, 17), (6, 17), (0, 28)], darker(dress.sleeve))
    front = np.array([(0, 27), (5, 18), (11, 19.5), (13.5, 28), (13, _BOTTOM), (0, _BOTTOM)]) * (half / 17, 1)
    pen.fill(front, dress.cloth)
    pen.fill(mirrored(front), dress.cloth)
    for side in (-1, 1):
        pen.fill(box(2.6 * half / 17, 31, 10.6 * half / 17, _BOTTOM) * (side, 1), blend(dress.cloth, WHITE, 0.2))
    _standing_collar(pen, dress.cloth)


def _jacket(pen: Pen, half: float, dress: Dress, generator: Generator) -> None:
    accent = _contrasting(dress.cloth, generator)
    pen.shape(_torso(half), dress.cloth, shade=4)
    pen.fill(box(-2.4, 20, 2.4, _BOTTOM), blend(accent, dress.cloth, 0.15))
    collar = np.array([(0, 26), (-5.4, 17), (-8.5, 14.5), (-12.4, 20), (-7, 26.5)])
    for points in (collar, mirrored(collar)):
        pen.shape(points, lighter(dress.cloth), shade=0)


def _robe(pen: Pen, half: float, dress: Dress, generator: Generator) -> None:
    trim = blend(_contrasting(dress.cloth, generator), dress.cloth, 0.1)
    pen.shape(_torso(half + 1), dress.cloth, shade=4)
    left = np.array([(-5, 15.5), (-10.5, 17), (3.5, 42), (8.5, 38)])
    pen.fill(mirrored(left), darker(trim))
    pen.fill(left, trim)


def _armor(pen: Pen, half: float, dress: Dress) -> None:
    pen.shape(_torso(half), dress.sleeve, shade=0)
    plate = path([(5.5, 20), (10, 22), (half * 0.76, 30), (half * 0.7, _BOTTOM)])
    pen.shape(np.vstack([plate, mirrored(plate)[::-1]]), dress.cloth, shade=0)
    for side in (-1, 1):
        pen.shape(oval(side * half * 0.95, 27.5, 8, 7.5), dress.cloth, shade=3.2)
    pen.fill(oval(0, 29, 4, 4), blend(GOLD, dress.cloth, 0.1))
    _standing_collar(pen, darker(dress.cloth))


def _contrasting(cloth: Color, generator: Generator) -> Color:
    """White, navy or gold: one that stands out against the cloth."""
    trims = (WHITE, (44, 44, 70), GOLD)
    visible = [trim for trim in trims if sum(abs(a - b) for a, b in zip(trim, cloth, strict=True)) > 180]
    return visible[generator.integers(len(visible))]


def _standing_collar(pen: Pen, cloth: Color) -> None:
    flap = np.array([(0, 24.5), (-4.6, 18), (-5.6, 12.5), (-10.4, 13.5), (-10.4, 21)])
    for points in (flap, mirrored(flap)):
        pen.shape(points, cloth, shade=0)


def _scarf(pen: Pen, half: float, dress: Dress, generator: Generator) -> None:
    pen.shape(_torso(half), dress.sleeve, shade=3)
    side = -1 if generator.random() < 0.5 else 1
    pen.fill(np.array([(2, 24), (11, 24), (13, 50), (3, 50)]) * (side, 1), darker(dress.cloth))
    wrap = loop([(-14, 18), (-8, 13.5), (0, 16), (8, 13.5), (14, 18), (13, 26), (5, 30), (-5, 30), (-13, 26)])
    pen.shape(wrap, dress.cloth, shade=4)


def draw_sleeve(pen: Pen, dress: Dress, hand: tuple[float, float]) -> None:
    """Draws the forearm from the lower edge of the picture up to the hand."""
    x, y = hand
    side = 1 if x > 0 else -1
    elbow = x + side * 2
    pen.shape([(x - 4.4, y + 2), (x + 4.4, y + 2), (elbow + 7, _BOTTOM), (elbow - 6, _BOTTOM)], dress.sleeve, shade=3)
