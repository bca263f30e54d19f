"""The neck, the shoulders and what they wear; the origin is the middle of the head, the bust ends below the picture."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.attributes import Attributes
from naruto_add.data.shinobi.palette import CLOTH, GOLD, STEEL, WHITE, Color, blend, darker, jittered, lighter
from naruto_add.data.shinobi.pen import Pen, Points, box, loop, mirrored, oval, path

_SHOULDERS = {"man": 20.0, "woman": 16.0, "boy": 16.5, "girl": 15.0, "old man": 18.5, "ninja": 19.0}
_BOTTOM = 52.0


@dataclass(frozen=True)
class Dress:
    """The colours that the bust and its sleeves share."""

    cloth: Color
    sleeve: Color
    skin: Color


def dress_of(attributes: Attributes, skin: Color, generator: Generator) -> Dress:
    """The colours of the garment; a vest, an armor and a scarf leave sleeves of another cloth."""
    cloth = jittered(CLOTH[attributes.garment_color], generator)
    under = ((60, 66, 92), (84, 78, 84)) if attributes.garment_color != "black" else ((150, 150, 168), (176, 160, 140))
    sleeve = under[generator.integers(2)] if attributes.garment in ("vest", "armor", "scarf") else cloth
    return Dress(cloth, sleeve, skin)


def draw_bust(pen: Pen, attributes: Attributes, dress: Dress, generator: Generator) -> None:
    """Draws the neck, the shoulders and the garment."""
    half = _SHOULDERS[attributes.subject] * generator.uniform(0.94, 1.06)
    pen.shape([(-4.6, 8), (4.6, 8), (5.4, 22), (-5.4, 22)], dress.skin, shade=0)
    pen.fill([(-4.6, 10), (4.6, 10), (5, 17), (0, 19), (-5, 17)], darker(dress.skin))
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
            _cloak(pen, half, dress, clouds=cloak != "cloak", generator=generator)


def _torso(half: float, *, neck: float = 5.0) -> Points:
    side = path([(neck, 17.5), (half * 0.62, 20.5), (half, 25.5), (half + 2.5, 36), (half + 3, _BOTTOM)])
    return np.vstack([side, mirrored(side)[::-1]])


def _cloak(pen: Pen, half: float, dress: Dress, *, clouds: bool, generator: Generator) -> None:
    body = _torso(half + 3, neck=6)
    pen.shape(body, dress.cloth, shade=4)
    if clouds:
        for x, y in ((-12, 31), (12, 34)):
            _cloud(pen, body, x + generator.uniform(-1.5, 1.5), y + generator.uniform(-1.5, 1.5))
    pen.stroke([(0.5, 22), (0.5, _BOTTOM)])
    lining = (176, 34, 44) if clouds else lighter(dress.cloth)
    flap = [(-0.5, 23.5), (-5.6, 17), (-6.4, 9.5), (-11.5, 12.5), (-11, 20), (-6, 24)]
    for points in (np.array(flap), mirrored(flap)):
        pen.shape(points, dress.cloth, shade=2)
        pen.stroke(points[:3], width=0.8)
        pen.brush(points[:3] * (0.9, 1), lining, width=1.8)


def _cloud(pen: Pen, clip: Points, x: float, y: float) -> None:
    puffs = [(-6, 1.6), (-6, -1.4), (-3.2, -1.6), (-2.4, -4.4), (1.4, -4.8), (2.8, -2.2), (6, -2), (6.4, 1.6), (0, 3)]
    for size, color in ((1.3, (252, 242, 238)), (1.0, (220, 26, 38))):
        pen.inlay(clip, loop(puffs) * size + (x, y), color)


def _vest(pen: Pen, half: float, dress: Dress) -> None:
    pen.shape(_torso(half), dress.sleeve, shade=3)
    front = np.array([(0, 25), (5, 18), (11, 19.5), (13.5, 28), (13, _BOTTOM), (0, _BOTTOM)]) * (half / 18, 1)
    for panel in (front, mirrored(front)):
        pen.shape(panel, dress.cloth, shade=2)
    for x in (-10.5, 3.5):
        pocket = box(x * half / 18, 33, (x + 7) * half / 18, 42)
        pen.shape(pocket, lighter(dress.cloth), shade=0, width=0.8)
        pen.stroke([pocket[0] + (0, 2.6), pocket[1] + (0, 2.6)], width=0.8)
    _standing_collar(pen, dress.cloth)


def _jacket(pen: Pen, half: float, dress: Dress, generator: Generator) -> None:
    body = _torso(half)
    accent = _contrasting(dress.cloth, generator)
    pen.shape(body, dress.cloth, shade=3.5)
    for side in (-1, 1):
        pen.inlay(body, box(half * 0.74, 10, half * 0.98, 60) * (side, 1), accent)
        pen.stroke([(side * half * 0.64, 36), (side * half * 0.58, _BOTTOM)], width=0.8)
    pen.fill(box(-1.5, 20, 1.5, _BOTTOM), accent)
    pen.stroke([(-1.5, 22), (-1.5, _BOTTOM)], width=0.7)
    pen.stroke([(1.5, 22), (1.5, _BOTTOM)], width=0.7)
    collar = np.array([(0, 25), (-5.4, 17), (-8.5, 15), (-12, 20), (-6.5, 26)])
    for points in (collar, mirrored(collar)):
        pen.shape(points, lighter(dress.cloth), shade=1.2)


def _robe(pen: Pen, half: float, dress: Dress, generator: Generator) -> None:
    trim = _contrasting(dress.cloth, generator)
    pen.shape(_torso(half + 1), dress.cloth, shade=4)
    pen.fill([(-5, 17.5), (5, 17.5), (0, 30)], (252, 250, 246))
    pen.fill([(-4, 16.5), (4, 16.5), (0, 25)], darker(dress.skin))
    left = np.array([(-5, 16), (-9.5, 17), (4, 39), (7, 36)])
    pen.shape(mirrored(left), trim, shade=0.8)
    pen.shape(left, trim, shade=0.8)
    sash = box(-half * 0.86, 40, half * 0.86, 47)
    pen.shape(sash, trim, shade=1.5)


def _armor(pen: Pen, half: float, dress: Dress) -> None:
    pen.shape(_torso(half), dress.sleeve, shade=3)
    plate = path([(5.5, 20), (10, 22), (half * 0.76, 30), (half * 0.7, _BOTTOM)])
    pen.shape(np.vstack([plate, mirrored(plate)[::-1]]), dress.cloth, shade=3)
    for y in (31.0, 37.0, 43.0):
        pen.stroke(path([(-half * 0.72, y - 1.2), (0, y + 1), (half * 0.72, y - 1.2)]))
    for side in (-1, 1):
        for y, reach in ((33.5, 5.6), (29.5, 6.4), (25.5, 7.2)):
            pad = oval(side * half * 0.93, y, reach, 5)
            pen.shape(pad, dress.cloth, shade=1.6 if y < 26 else 0)
        pen.shape(oval(side * half * 0.9, 24.5, 2.0, 2.0), GOLD, shade=0, width=0.7)
    pen.shape(oval(0, 26.5, 2.6, 2.6), STEEL, shade=0.8, width=0.8)
    _standing_collar(pen, dress.cloth)


def _contrasting(cloth: Color, generator: Generator) -> Color:
    """White, navy or gold, whichever the cloth allows."""
    trims = (WHITE, (44, 44, 70), GOLD)
    visible = [trim for trim in trims if sum(abs(a - b) for a, b in zip(trim, cloth, strict=True)) > 180]
    return visible[generator.integers(len(visible))]


def _standing_collar(pen: Pen, cloth: Color) -> None:
    flap = np.array([(0, 24), (-5, 18), (-5.6, 12.5), (-9.6, 14), (-9.6, 20.5)])
    for points in (flap, mirrored(flap)):
        pen.shape(points, cloth, shade=1.4)


def _scarf(pen: Pen, half: float, dress: Dress, generator: Generator) -> None:
    pen.shape(_torso(half), dress.sleeve, shade=3)
    pen.stroke([(0, 30), (0, _BOTTOM)], width=0.8)
    side = -1 if generator.random() < 0.5 else 1
    tail = np.array([(3, 24), (11, 24), (14, 46), (5, 48)]) * (side, 1)
    pen.shape(tail, dress.cloth, shade=2)
    pen.stroke([tail[2] - (0, 5), tail[3] - (0, 5)], width=0.8)
    wrap = loop([(-14, 18), (-8, 13.5), (0, 16), (8, 13.5), (14, 18), (13, 26), (5, 30), (-5, 30), (-13, 26)])
    pen.shape(wrap, dress.cloth, shade=2.5)
    pen.stroke(path([(-13, 20), (-4, 24.5), (6, 24), (12, 19)]), width=0.9)
    pen.stroke(path([(-10, 26.5), (-2, 27.5), (4, 26)]), width=0.8)


def draw_sleeve(pen: Pen, dress: Dress, hand: tuple[float, float]) -> None:
    """Draws the forearm that comes up from the lower edge of the picture to the hand."""
    x, y = hand
    side = 1 if x > 0 else -1
    cuff = blend(dress.sleeve, WHITE, 0.35)
    elbow = x + side * 2
    pen.shape([(x - 4.2, y + 4), (x + 4.2, y + 4), (elbow + 7, _BOTTOM), (elbow - 6, _BOTTOM)], dress.sleeve)
    pen.shape(box(x - 4.6, y + 2.6, x + 4.6, y + 6), cuff, shade=1)
