"""The face: skull, eyes, mouth, marks, mask, beard and forehead protector; the origin is the middle of the head."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.attributes import NONE, Attributes
from naruto_add.data.shinobi.palette import IRIS, STEEL, WHITE, Color, blend, darker, jittered, lighter
from naruto_add.data.shinobi.pen import Pen, Points, box, loop, oval, path

_BANDS: dict[str, Color] = {"blue": (34, 78, 190), "black": (46, 44, 58), "red": (200, 34, 40), "green": (40, 132, 66)}
_MASKS: tuple[Color, ...] = ((40, 46, 76), (50, 48, 56), (84, 92, 112))


@dataclass(frozen=True)
class Build:
    """The proportions of a face in its own units."""

    jaw: float
    chin: float
    eye_width: float
    eye_height: float
    brow: float


_BUILDS = {
    "man": Build(jaw=10.0, chin=15.6, eye_width=3.7, eye_height=3.4, brow=1.9),
    "woman": Build(jaw=8.4, chin=15.0, eye_width=4.1, eye_height=4.6, brow=1.0),
    "boy": Build(jaw=9.6, chin=14.2, eye_width=4.1, eye_height=4.6, brow=1.5),
    "girl": Build(jaw=9.2, chin=13.8, eye_width=4.3, eye_height=5.0, brow=1.0),
    "old man": Build(jaw=9.6, chin=15.6, eye_width=3.5, eye_height=2.7, brow=2.4),
    "ninja": Build(jaw=9.4, chin=15.2, eye_width=3.8, eye_height=3.7, brow=1.7),
}


def draw_face(pen: Pen, attributes: Attributes, *, skin: Color, hair: Color, turn: float, generator: Generator) -> None:
    """Draws the bare head; `turn` is 0 from the front and 1 for a face turned to the right of the pen."""
    build = _BUILDS[attributes.subject]
    face = _face_outline(build, turn)
    for side in (-1, 1):
        pen.shape(oval(side * 12.6 - turn * 1.5, 2.5, 2.5, 3.6), skin, shade=0)
    pen.shape(face, skin, shade=2.4)
    features = pen.moved(3.6 * turn, 0)
    _cheeks(features, attributes, skin, face_turn=turn)
    _mark(features, attributes.face_mark, skin)
    _eyes(features, attributes, build, turn, generator)
    if attributes.mask != NONE:
        _mask(pen, face, turn, generator)
    else:
        features.brush(path([(0.2, 4.6), (1.2, 6.6), (-0.6, 7.1)]), darker(darker(skin)), width=1.0)
        if attributes.subject == "old man":
            _beard(features, hair, generator)
        _mouth(features, attributes, generator)


def draw_brows(pen: Pen, attributes: Attributes, hair: Color, turn: float) -> None:
    """Draws the brows, which show through the fringe so that it never hides the expression."""
    build = _BUILDS[attributes.subject]
    for side in (-1, 1):
        eye = pen.moved(3.6 * turn + side * (5.7 - 0.2 * abs(turn)), 2.4, flip=side < 0)
        _brow(eye, attributes.expression, build, hair)


def draw_band_tails(pen: Pen, band: str, generator: Generator) -> None:
    """Draws the knotted ends of the forehead protector, which the head hides in part."""
    cloth = _BANDS[band.split()[0]]
    for drop in generator.uniform(-5, 8, 2):
        bend, end = drop * 0.4, drop
        tail = path([(-11, -8), (-18, bend - 6), (-23, end - 3), (-22, end + 1), (-16, bend - 1), (-11, -4)])
        pen.shape(tail, cloth, shade=1.2)


def draw_band(pen: Pen, band: str, *, turn: float, generator: Generator) -> None:
    """Draws the forehead protector: a cloth band and a bent steel plate with an engraved mark."""
    cloth = jittered(_BANDS[band.split()[0]], generator)
    upper = path([(-14.4, -8.4), (-7, -11), (0, -11.8), (7, -11), (14.4, -8.4)])
    lower = path([(14.6, -2.4), (7, -3.9), (0, -4.4), (-7, -3.9), (-14.6, -2.4)])
    pen.shape(np.vstack([upper, lower]), cloth, shade=1.2)
    plate = pen.moved(3.2 * turn, -7.9)
    half = 7.2 - abs(turn)
    metal = np.vstack([path([(-half, -2.9), (0, -3.9), (half, -2.9)]), path([(half, 2.9), (0, 2.3), (-half, 2.9)])])
    plate.shape(metal, STEEL, shade=1.0)
    plate.inlay(metal, [(-half, -5), (-half + 3, -5), (-half + 1, 5), (-half - 2, 5)], WHITE)
    _engraving(plate, generator)


def _face_outline(build: Build, turn: float) -> Points:
    lean = 2.0 * turn
    right = [(8.8, -11.6), (12.6, -4), (12.6 - 0.6 * turn, 3.5), (build.jaw + 1.0, 9.4), (4.4 + lean, build.chin - 1.5)]
    left = [(-x + (lean * 2 if y > 9.5 else 0), y) for x, y in right[::-1]]
    left[1] = (left[1][0] + 1.4 * turn, left[1][1])
    return loop([(0, -14.4), *right, (lean, build.chin), *left])


def _cheeks(pen: Pen, attributes: Attributes, skin: Color, *, face_turn: float) -> None:
    if attributes.subject in ("girl", "woman", "boy"):
        for side in (-1, 1):
            pen.fill(oval(side * 7.6 - face_turn, 7.6, 2.5, 1.3), blend(skin, (255, 90, 90), 0.34))
    if attributes.subject == "old man":
        for side in (-1, 1):
            pen.brush(path([(side * 3.4, 7.2), (side * 5.6, 9.2), (side * 6.4, 11)]), darker(skin), width=1.0)
            pen.brush(path([(side * 4, 5.7), (side * 6.4, 6.7), (side * 9, 5.6)]), darker(skin), width=1.0)


def _eyes(pen: Pen, attributes: Attributes, build: Build, turn: float, generator: Generator) -> None:
    iris = jittered(IRIS[generator.integers(len(IRIS))], generator)
    width, height = build.eye_width * generator.uniform(0.94, 1.06), build.eye_height * generator.uniform(0.92, 1.08)
    slant = generator.uniform(-0.5, 0.4) - (0.9 if attributes.expression == "angry" else 0)
    for side in (-1, 1):
        eye = pen.moved(side * (5.7 - 0.2 * abs(turn)), 2.4, flip=side < 0)
        far = 1 - 0.2 * abs(turn) if side * turn > 0 else 1.0
        if attributes.expression == "closed eyes":
            _closed_eye(eye, width * far)
        else:
            _open_eye(eye, attributes, width * far, height, slant=slant, iris=iris, look=turn * side)


def _open_eye(
    pen: Pen, attributes: Attributes, width: float, height: float, *, slant: float, iris: Color, look: float
) -> None:
    """Local x grows outward from the nose; a negative slant drops the inner corner of the lid."""
    inner, outer = (-width, -slant * 2.2), (width, -height * 0.3 + slant)
    lid = path([inner, (-width * 0.45, -height * 0.86 - slant * 1.2), (width * 0.4, -height), outer])
    under = path([outer, (width * 0.66, height * 0.86), (-width * 0.5, height * 0.9), inner])
    white = np.vstack([lid, under])
    pen.fill(white, WHITE)
    x = look * 0.7 - 0.2
    pen.inlay(white, oval(x, 0.1, width * 0.68, height * 1.02), darker(darker(iris)))
    pen.inlay(white, oval(x, height * 0.42, width * 0.54, height * 0.62), lighter(iris) if sum(iris) < 330 else iris)
    pen.fill(oval(x, 0.1, width * 0.28, height * 0.42), pen.ink)
    pen.fill(oval(x - 1.0, -height * 0.42, width * 0.27, height * 0.26), WHITE)
    pen.brush(lid, pen.ink, width=2.4)
    pen.brush(under, pen.ink, width=0.7)
    if attributes.subject in ("woman", "girl"):
        pen.fill([(width * 0.5, -height * 0.95), (width + 1.8, -height * 0.75), (width + 0.2, height * 0.05)], pen.ink)


def _closed_eye(pen: Pen, width: float) -> None:
    pen.brush(path([(-width, 0.2), (-width * 0.4, 2.2), (width * 0.4, 2.2), (width + 0.6, -0.2)]), pen.ink, width=2.2)
    for x in (-0.2, 0.5):
        pen.brush([(width * x, 2.0), (width * (x + 0.15), 3.0), (width * (x + 0.25), 4.0)], pen.ink, width=0.9)


def _brow(pen: Pen, expression: str, build: Build, hair: Color) -> None:
    color = blend(darker(hair), pen.ink, 0.45)
    top = -build.eye_height - 1.6
    inner, outer = {"angry": (2.4, -2.0), "smiling": (-0.8, 0.2), "shouting": (1.6, -1.6)}.get(expression, (0.3, 0.0))
    pen.brush(path([(-3.6, top + inner), (0.4, top - 0.9), (4.4, top + outer + 0.4)]), color, width=build.brow + 0.6)


def _mouth(pen: Pen, attributes: Attributes, generator: Generator) -> None:
    y = 10.2 + generator.uniform(-0.3, 0.3)
    half = generator.uniform(3.7, 4.7)
    lips = (176, 40, 56) if attributes.subject in ("woman", "girl") else pen.ink
    match attributes.expression:
        case "smiling":
            upper = path([(-half, y - 1.2), (0, y - 0.5), (half, y - 1.2)])
            lower = path([(half, y - 1.2), (half * 0.5, y + 2.6), (-half * 0.5, y + 2.6), (-half, y - 1.2)])
            smile = np.vstack([upper, lower])
            pen.shape(smile, (168, 34, 48), shade=0, width=0.9)
            pen.inlay(smile, box(-half, y - 2, half, y + 0.5), WHITE)
        case "shouting":
            jaw = half * 0.8
            maw = loop([(-half, y - 2), (0, y - 2.6), (half, y - 2), (jaw, y + 3), (0, y + 4), (-jaw, y + 3)])
            pen.shape(maw, (132, 20, 40), shade=0)
            pen.inlay(maw, oval(0, y + 3.6, 2.6, 2.2), (244, 110, 116))
            pen.inlay(maw, box(-half, y - 4, half, y - 1.1), WHITE)
        case "angry":
            teeth = np.array([(-half, y + 1.6), (-half + 0.8, y - 1), (half - 0.8, y - 1), (half, y + 1.6)])
            pen.shape(teeth, WHITE, shade=0)
            pen.stroke([(-half + 0.6, y + 0.3), (half - 0.6, y + 0.3)], width=0.6)
        case _:
            pen.brush(path([(-half * 0.7, y + 0.3), (0, y), (half * 0.7, y + 0.3)]), lips, width=1.5)


def _mask(pen: Pen, face: Points, turn: float, generator: Generator) -> None:
    cloth = jittered(_MASKS[generator.integers(len(_MASKS))], generator)
    edge = path([(-15, 4.2), (-6 + turn * 3, 6), (3.6 * turn, 4.8), (6 + turn * 3, 6), (15, 4.2)])
    pen.inlay(face, np.vstack([edge, [(15, 20), (-15, 20)]]), cloth)
    pen.inlay(face, np.vstack([edge, edge[::-1] + np.array((0, 1.5))]), lighter(cloth))
    pen.stroke(edge[(np.abs(edge[:, 0]) < 12.4)], width=0.9)
    pen.stroke(path([(3.6 * turn - 3.4, 9), (3.6 * turn, 10), (3.6 * turn + 3.4, 9)]), width=0.6)
    pen.stroke(np.vstack([face, face[:2]]))


def _beard(pen: Pen, hair: Color, generator: Generator) -> None:
    tips = [(x, 15 + generator.uniform(2, 8) * (1 - abs(x) / 12)) for x in (8, 4, 0, -4, -8)]
    jagged = [point for tip in tips for point in (tip, (tip[0] - 2, tip[1] - 2.6))][:-1]
    right, left = [(4.4, 12), (8.4, 7), (11, 3), (10.8, 9)], [(-10.8, 9), (-11, 3), (-8.4, 7), (-4.4, 12)]
    pen.shape([(0, 12.4), *right, *jagged, *left], hair, shade=1.8, width=0.9)
    for side in (-1, 1):
        moustache = path([(0, 7.8), (side * 4, 8.0), (side * 6.4, 11.4), (side * 2.6, 9.8), (0, 9.4)])
        pen.shape(moustache, hair, shade=0, width=0.8)


def _mark(pen: Pen, mark: str, skin: Color) -> None:
    if mark == "whisker marks":
        for side in (-1, 1):
            for y, rise in ((5.6, -0.9), (8.0, 0.0), (10.2, 0.9)):
                whisker = path([(side * 5.6, y), (side * 8, y + rise * 0.5), (side * 11, y + rise)])
                pen.brush(whisker, pen.ink, width=1.7)
    if mark == "scar":
        wound = blend((164, 22, 34), skin, 0.1)
        pen.brush(path([(-7.4, -8), (-6.4, 2), (-6.6, 12.2)]), wound, width=2.2)
        for y in (7.8, 10.0):
            pen.brush([(-9.2, y + 0.4), (-6.6, y), (-4.0, y - 0.4)], wound, width=1.3)


def _engraving(pen: Pen, generator: Generator) -> None:
    """One of four marks of our own: a spiral, a wave, a sprout, three rings."""
    match generator.integers(4):
        case 0:
            angles = np.linspace(0, 3.4 * np.pi, 18)
            pen.stroke(np.stack([angles / 5 * np.cos(angles), angles / 5 * np.sin(angles) - 0.5], axis=1), width=0.7)
        case 1:
            pen.stroke(path([(-4, 0.4), (-2, -2), (0, 0), (2, -2), (4, 0.4)]), width=0.8)
        case 2:
            pen.stroke(path([(0, 1.8), (0.2, -0.5), (-2.6, -2)]), width=0.8)
            pen.stroke(path([(0.2, -0.2), (2.6, -2.2)]), width=0.8)
        case _:
            for x in (-3, 0, 3):
                pen.stroke(np.vstack([oval(x, -0.5, 1.1, 1.1), oval(x, -0.5, 1.1, 1.1)[:2]]), width=0.6)
