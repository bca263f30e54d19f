"""Backgrounds: a few large shapes without outlines, so that the figure stands out."""

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.palette import PLAIN, WHITE, Color, blend, darker, jittered
from naruto_add.data.shinobi.pen import Pen, Points, box, oval, path


def paint_scenery(pen: Pen, background: str, generator: Generator) -> None:
    """Covers the page, 0 to 64 in both directions, with the named background."""
    match background:
        case "village":
            _village(pen, generator)
        case "forest":
            _forest(pen, generator)
        case "sunset":
            _sunset(pen, generator)
        case "night":
            _night(pen, generator)
        case "mountain":
            _mountain(pen, generator)
        case "waterfall":
            _waterfall(pen, generator)
        case "desert":
            _desert(pen, generator)
        case "snow":
            _snow(pen, generator)
        case "cherry blossoms":
            _cherry_blossoms(pen, generator)
        case _:
            _plain(pen, PLAIN[background.removesuffix(" background")], generator)


def _village(pen: Pen, generator: Generator) -> None:
    _sky(pen, (128, 202, 250), (222, 240, 250), generator)
    roof = jittered(((228, 104, 80), (232, 142, 76), (92, 160, 166))[generator.integers(3)], generator)
    _house(pen, generator.uniform(-7, -3), generator.uniform(22, 32), roof, generator)
    _house(pen, generator.uniform(46, 50), generator.uniform(22, 32), roof, generator)


def _house(pen: Pen, x: float, top: float, roof: Color, generator: Generator) -> None:
    wall = jittered((246, 224, 184), generator)
    pen.fill(box(x, top, x + 21, 64), wall)
    pen.fill([(x - 4, top + 3), (x + 25, top + 3), (x + 17, top - 8), (x + 4, top - 8)], roof)
    pen.fill(box(x + 7.5, top + 9, x + 13.5, top + 17), blend(wall, (150, 104, 92), 0.6))


def _forest(pen: Pen, generator: Generator) -> None:
    _sky(pen, (174, 222, 122), (104, 184, 96), generator)
    for x in (generator.uniform(3, 10), generator.uniform(54, 61)):
        half = generator.uniform(3.6, 5)
        pen.fill([(x - half, 0), (x + half, 0), (x + half + 1.5, 64), (x - half - 1.5, 64)], (132, 94, 62))
    for x in np.array([0.0, 21.0, 43.0, 64.0]) + generator.uniform(-3, 3, 4):
        pen.fill(oval(x, generator.uniform(-2, 2), 15, generator.uniform(9, 12)), (58, 148, 78))


def _sunset(pen: Pen, generator: Generator) -> None:
    _sky(pen, (222, 84, 106), (255, 200, 96), generator)
    pen.fill(oval(generator.uniform(12, 52), generator.uniform(20, 28), 17, 17), (255, 226, 132))
    pen.fill(_ridge(generator, top=47, swing=4), (158, 60, 112))


def _night(pen: Pen, generator: Generator) -> None:
    _sky(pen, (26, 34, 98), (66, 84, 176), generator)
    moon_x = generator.uniform(9, 14) if generator.random() < 0.5 else generator.uniform(50, 55)
    for x in (*generator.uniform(3, 20, 2), *generator.uniform(44, 61, 2)):
        pen.fill(oval(x, generator.uniform(22, 40), 1.2, 1.2), (214, 216, 224))
    pen.fill(oval(moon_x, generator.uniform(10, 14), 8, 8), (250, 240, 190))
    pen.fill(_ridge(generator, top=50, swing=4), (34, 38, 96))


def _mountain(pen: Pen, generator: Generator) -> None:
    _sky(pen, (118, 192, 250), (218, 240, 252), generator)
    _peak(pen, generator.uniform(8, 16), generator.uniform(10, 18), 30)
    _peak(pen, generator.uniform(48, 56), generator.uniform(10, 18), 30)
    pen.fill(_ridge(generator, top=52, swing=3), (112, 182, 112))


def _peak(pen: Pen, x: float, top: float, half: float) -> None:
    drop = (64 - top) * 0.32
    side = half * 0.32
    pen.fill([(x - half, 64), (x, top), (x + half, 64)], (128, 142, 192))
    pen.fill([(x, top), (x + side, top + drop), (x, top + drop * 0.75), (x - side, top + drop)], (240, 246, 254))


def _waterfall(pen: Pen, generator: Generator) -> None:
    """Draws a cliff with a broad sheet of water, two brighter streams, bushes above and foam below."""
    rock = jittered((142, 146, 140), generator)
    pen.gradient(rock, blend(rock, (96, 104, 120), 0.4))
    centre = generator.uniform(16, 22) if generator.random() < 0.5 else generator.uniform(42, 48)
    for x in (-4.0, 68.0):
        pen.fill(oval(x, 3, generator.uniform(20, 28), 10), (104, 174, 100))
    pen.fill([(centre - 17, 0), (centre + 17, 0), (centre + 19, 64), (centre - 19, 64)], (122, 196, 248))
    for x in (-10.5, 10.5):
        pen.fill(box(centre + x - 3, 0, centre + x + 3, 64), (190, 228, 250))
    pen.fill(oval(centre, 64, 28, 13), (236, 248, 254))


def _desert(pen: Pen, generator: Generator) -> None:
    _sky(pen, (120, 208, 226), (240, 236, 198), generator)
    x = generator.uniform(9, 14) if generator.random() < 0.5 else generator.uniform(50, 55)
    pen.fill(oval(x, generator.uniform(10, 14), 7, 7), (255, 250, 214))
    for top, color in ((30, (240, 198, 124)), (44, (228, 168, 92))):
        left, right = top + generator.uniform(-5, 5, 2)
        pen.fill(np.vstack([path([(-2, left), (32, top), (66, right)]), [(66, 66), (-2, 66)]]), color)


def _snow(pen: Pen, generator: Generator) -> None:
    _sky(pen, (150, 184, 218), (206, 222, 240), generator)
    for x in (generator.uniform(5, 11), generator.uniform(53, 59)):
        _pine(pen, x, generator.uniform(14, 24))
    pen.fill(_ridge(generator, top=48, swing=3), (244, 248, 254))
    for x in (*generator.uniform(2, 20, 4), *generator.uniform(44, 62, 4)):
        pen.fill(oval(x, generator.uniform(3, 44), 1.6, 1.6), (244, 248, 254))


def _pine(pen: Pen, x: float, top: float) -> None:
    pen.fill([(x - 11, 52), (x, top + 8), (x + 11, 52)], (88, 142, 146))
    pen.fill([(x - 8, top + 19), (x, top), (x + 8, top + 19)], (220, 234, 246))


def _cherry_blossoms(pen: Pen, generator: Generator) -> None:
    _sky(pen, (168, 222, 250), (238, 246, 252), generator)
    flip = bool(generator.random() < 0.5)
    pen = pen.moved(64.0 if flip else 0.0, 0, flip=flip)
    pen.fill(path([(-2, 66), (7, 62), (5, 36), (10, 8), (-2, 8)]), (144, 100, 92))
    for x, y, radius in ((44, 1, 12), (24, 2, 13), (4, 10, 13), (62, 0, 9)):
        dx, dy = generator.uniform(-3, 3, 2)
        pen.fill(oval(x + dx, y + dy, radius, radius * 0.8), (250, 164, 200))
    for x, y in zip((4, 13, 52, 60), generator.uniform(28, 48, 4), strict=True):
        pen.fill(oval(x + generator.uniform(-2, 2), y, 2.2, 1.6), (250, 164, 200))


def _plain(pen: Pen, color: Color, generator: Generator) -> None:
    """Draws one colour that darkens downwards, in half of the pictures with a lighter disc behind the head."""
    base = jittered(color, generator)
    deep = blend(base, (150, 150, 176), 0.22) if min(color) > 200 else darker(base)
    pen.gradient(base, blend(base, deep, generator.uniform(0.1, 0.6)))
    if generator.random() < 0.5:
        tone = blend(base, (190, 190, 206), 0.25) if min(color) > 200 else blend(base, WHITE, 0.2)
        pen.fill(oval(32 + generator.uniform(-6, 6), generator.uniform(24, 34), 27, 27), tone)


def _sky(pen: Pen, top: Color, bottom: Color, generator: Generator) -> None:
    pen.gradient(jittered(top, generator), jittered(bottom, generator))


def _ridge(generator: Generator, *, top: float, swing: float) -> Points:
    """The outline of a rolling hill that fills the picture from about `top` downwards."""
    crest = path([(x, top + generator.uniform(-swing, swing)) for x in np.linspace(-4, 68, 4)])
    return np.vstack([crest, [(68, 68), (-4, 68)]])
