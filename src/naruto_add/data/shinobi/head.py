"""Skull, eyes, mouth, marks, mask, beard and forehead protector. The origin is the middle of the head."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.attributes import NONE, Attributes
from naruto_add.data.shinobi.palette import IRIS, STEEL, WHITE, Color, blend, darker, jittered, outlined
from naruto_add.data.shinobi.pen import Pen, Points, box, loop, oval, path

_BANDS: dict[str, Color] = {"blue": (34, 78, 190), "black": (52, 50, 66), "red": (200, 34, 40), "green": (40, 132, 66)}
_BAND = " forehead protector"
_MASKS: tuple[Color, ...] = ((58, 66, 100), (66, 64, 78), (98, 106, 128))
_LASH: Color = (36, 20, 44)
_MARK: Color = (120, 130, 154)


@dataclass(frozen=True)
class Build:
    """The proportions of a face in the pen's units."""

    jaw: float
    chin: float
    eye_width: float
    eye_height: float
    brow: float


_BUILDS = {
    "man": Build(jaw=10.0, chin=15.6, eye_width=2.7, eye_height=3.6, brow=1.9),
    "woman": Build(jaw=8.4, chin=15.0, eye_width=2.9, eye_height=4.4, brow=1.0),
    "boy": Build(jaw=9.6, chin=14.2, eye_width=3.0, eye_height=4.4, brow=1.5),
    "girl": Build(jaw=9.2, chin=13.8, eye_width=3.1, eye_height=4.7, brow=1.0),
    "old man": Build(jaw=9.6, chin=15.6, eye_width=2.5, eye_height=3.0, brow=2.4),
    "ninja": Build(jaw=9.4, chin=15.2, eye_width=2.7, eye_height=3.8, brow=1.7),
}


def draw_face(pen: Pen, attributes: Attributes, *, skin: Color, hair: Color, turn: float, generator: Generator) -> None:
    """Draws the head without hair. `turn` is 0 for a frontal face and 1 for one turned to the pen's right."""
    build = _BUILDS[attributes.subject]
    face = _face_outline(build, turn)
    for side in (-1, 1):
        pen.shape(oval(side * 12.6 - turn * 1.5, 2.5, 2.5, 3.6), darker(skin), shade=0, width=0)
    pen.shape(face, skin, shade=2.4)
    features = pen.moved(3.6 * turn, 0)
    _cheeks(features, attributes, skin, face_turn=turn)
    _mark(features, attributes.face_mark, skin)
    _eyes(features, attributes, build, turn, generator)
    if attributes.mask != NONE:
        _mask(pen, face, turn, generator)
    else:
        if attributes.subject == "old man":
            _beard(features, hair, generator)
        features.fill(oval(0.3, 6.4, 1.3, 0.8), darker(skin))
        _mouth(features, attributes, skin, generator)


def draw_brows(pen: Pen, attributes: Attributes, hair: Color, turn: float) -> None:
    """Draws the brows, over the fringe, so that the expression is always visible."""
    build = _BUILDS[attributes.subject]
    for side in (-1, 1):
        eye = pen.moved(3.6 * turn + side * (5.9 - 0.3 * abs(turn)), 2.6, flip=side < 0)
        _brow(eye, attributes.expression, build, hair)


def draw_band_tails(pen: Pen, band: str, generator: Generator) -> None:
    """Draws the knotted end of the forehead protector, which the head partly covers."""
    drop = generator.uniform(-4, 6)
    tail = path([(-11, -9), (-18, drop * 0.4 - 8), (-24, drop - 5), (-23, drop + 2), (-17, drop * 0.4), (-11, -3)])
    pen.shape(tail, darker(_BANDS[band.removesuffix(_BAND)]), shade=0)


def draw_band(pen: Pen, band: str, *, turn: float, generator: Generator) -> None:
    """Draws the forehead protector: a cloth band and a bent steel plate with an engraved mark."""
    cloth = jittered(_BANDS[band.removesuffix(_BAND)], generator)
    upper = path([(-14.6, -9), (-7, -11.6), (0, -12.4), (7, -11.6), (14.6, -9)])
    lower = path([(14.8, -2.6), (7, -3.8), (0, -4.2), (-7, -3.8), (-14.8, -2.6)])
    pen.shape(np.vstack([upper, lower]), cloth, shade=0)
    plate = pen.moved(3.2 * turn, -8.1)
    half = 7.8 - abs(turn)
    metal = np.vstack([path([(-half, -3.2), (0, -4.1), (half, -3.2)]), path([(half, 3.4), (0, 2.9), (-half, 3.4)])])
    plate.fill(metal, STEEL)
    _engraving(plate, generator)


def _face_outline(build: Build, turn: float) -> Points:
    lean = 2.0 * turn
    right = [(8.8, -11.6), (12.6, -4), (12.6 - 0.6 * turn, 3.5), (build.jaw + 1.0, 9.4), (4.4 + lean, build.chin - 1.5)]
    left = [(-x + (lean * 2 if y > 9.5 else 0), y) for x, y in right[::-1]]
    left[1] = (left[1][0] + 1.4 * turn, left[1][1])
    return loop([(0, -14.4), *right, (lean, build.chin), *left])


def _cheeks(pen: Pen, attributes: Attributes, skin: Color, *, face_turn: float) -> None:
    """Draws blushes on young faces and furrows on old ones."""
    if attributes.subject in ("girl", "woman", "boy"):
        for side in (-1, 1):
            pen.fill(oval(side * 7.8 - face_turn, 8.4, 2.8, 1.7), blend(skin, (255, 96, 96), 0.28))
    if attributes.subject == "old man":
        for side in (-1, 1):
            pen.brush(path([(side * 3.4, 7.6), (side * 6, 9.2), (side * 8.6, 8.2)]), darker(skin), width=1.6)


def _eyes(pen: Pen, attributes: Attributes, build: Build, turn: float, generator: Generator) -> None:
    iris = jittered(IRIS[generator.integers(len(IRIS))], generator)
    width, height = build.eye_width * generator.uniform(0.95, 1.05), build.eye_height * generator.uniform(0.94, 1.06)
    for side in (-1, 1):
        eye = pen.moved(side * (5.9 - 0.3 * abs(turn)), 2.6, flip=side < 0)
        far = 1 - 0.2 * abs(turn) if side * turn > 0 else 1.0
        if attributes.expression == "closed eyes":
            eye.brush(path([(-3.6, 0), (-1.4, 2), (1.4, 2), (3.8, -0.2)]), _LASH, width=2.4)
        else:
            _open_eye(eye, attributes, width * far, height, iris)


def _open_eye(pen: Pen, attributes: Attributes, width: float, height: float, iris: Color) -> None:
    """Draws a tall dark oval, brighter below, with a highlight. Local x grows away from the nose."""
    ball = oval(0, 0, width, height)
    pen.fill(ball, blend(iris, _LASH, 0.7))
    pen.fill(oval(0, height * 0.42, width * 0.72, height * 0.5), blend(iris, _LASH, 0.1))
    pen.fill(oval(-width * 0.25, -height * 0.36, width * 0.46, height * 0.34), WHITE)
    if attributes.subject in ("woman", "girl"):
        pen.brush(path([(-width, -height * 0.7), (0.4, -height - 0.4), (width + 2.2, -height * 0.6)]), _LASH, width=2.0)


def _brow(pen: Pen, expression: str, build: Build, hair: Color) -> None:
    top = -build.eye_height - 1.4
    inner, outer = {"angry": (2.8, -2.0), "smiling": (-0.8, 0.2), "shouting": (1.8, -1.6)}.get(expression, (0.3, 0.0))
    line = path([(-3.6, top + inner), (0.4, top - 0.6), (4.4, top + outer + 0.4)])
    pen.brush(line, outlined(hair), width=build.brow + 0.8)


def _mouth(pen: Pen, attributes: Attributes, skin: Color, generator: Generator) -> None:
    y = 10.4 + generator.uniform(-0.3, 0.3)
    half = generator.uniform(3.8, 4.4)
    red = blend((158, 34, 50), skin, 0.12)
    match attributes.expression:
        case "smiling":
            pen.fill(path([(-half, y - 1.4), (0, y - 0.8), (half, y - 1.4), (2, y + 2.4), (-2, y + 2.4)]), red)
        case "shouting":
            pen.fill(loop([(-half, y - 2), (0, y - 2.6), (half, y - 2), (3, y + 3), (0, y + 3.8), (-3, y + 3)]), red)
        case "angry":
            pen.brush(path([(-half, y + 1.8), (-1.6, y - 0.6), (1.6, y - 0.6), (half, y + 1.8)]), red, width=2.0)
        case _:
            pen.brush(path([(-3.2, y + 0.2), (0, y), (3.2, y + 0.2)]), red, width=1.8)


def _mask(pen: Pen, face: Points, turn: float, generator: Generator) -> None:
    cloth = jittered(_MASKS[generator.integers(len(_MASKS))], generator)
    edge = path([(-15, 5), (-6 + turn * 3, 6.8), (3.6 * turn, 5.6), (6 + turn * 3, 6.8), (15, 5)])
    pen.inlay(face, np.vstack([edge, [(15, 20), (-15, 20)]]), cloth)


def _beard(pen: Pen, hair: Color, generator: Generator) -> None:
    tip = generator.uniform(18, 22)
    jaw = [(6, 15), (0, tip), (-6, 15)]
    right, left = [(4, 7.4), (8.4, 8), (11.4, 3), (10.8, 10)], [(-10.8, 10), (-11.4, 3), (-8.4, 8), (-4, 7.4)]
    pen.shape([(0, 7.8), *right, *jaw, *left], hair, shade=2)


def _mark(pen: Pen, mark: str, skin: Color) -> None:
    if mark == "whisker marks":
        tone = outlined(outlined(skin))
        for side in (-1, 1):
            for y, rise in ((5.4, -1.2), (8.4, 0.0), (11.0, 1.0)):
                whisker = [(side * 6.2, y), (side * 8.6, y + rise * 0.5), (side * 11.4, y + rise)]
                pen.brush(whisker, tone, width=1.9)
    if mark == "scar":
        tone = blend(darker(darker(skin)), (190, 40, 50), 0.3)
        pen.brush(path([(-8.4, -5), (-6.6, 2), (-7.0, 12.4)]), tone, width=2.8)


def _engraving(pen: Pen, generator: Generator) -> None:
    """Draws one of four invented marks: a leaf, a wave, a drop or a bar."""
    match generator.integers(4):
        case 0:
            pen.fill([(-2.8, 1.6), (-1.6, -1.8), (2.8, -2.6), (1.6, 0.9)], _MARK)
        case 1:
            pen.brush(path([(-4.6, 0.8), (-1.8, -1.6), (1.8, 0.6), (4.6, -1.8)]), _MARK, width=2.0)
        case 2:
            pen.fill(oval(0, -0.4, 2.3, 2.3), _MARK)
        case _:
            pen.fill(box(-4.4, -1.3, 4.4, 0.5), _MARK)
