"""Hair: what hangs or stands behind the bust, and what covers the skull; the origin is the middle of the head."""

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.palette import Color, blend, darker, lighter
from naruto_add.data.shinobi.pen import Pen, Points, loop, mirrored, oval, path

_SIDE_LOCKS = {"spiky": 4.0, "long": 17.0, "short": 3.5, "ponytail": 7.0, "twin tails": 9.0, "buns": 8.0}


def draw_back_hair(pen: Pen, style: str, color: Color, generator: Generator) -> None:
    """Draws the hair that the bust and the head hide in part."""
    match style:
        case "long":
            _curtain(pen, color, generator)
        case "ponytail":
            _ponytail(pen, color, generator)
        case "twin tails":
            _twin_tails(pen, color, generator)
        case "buns":
            _buns(pen, color, generator)
        case "spiky":
            pen.shape(_burst(generator, spread=(148, 392), count=7, reach=(19, 23), valley=13), darker(color), shade=0)
        case "short":
            nape = loop([(-13.5, -8), (0, -15), (13.5, -8), (13.5, 9), (9, 13), (-9, 13), (-13.5, 9)])
            pen.shape(nape, darker(color), shade=0)


def draw_front_hair(pen: Pen, style: str, color: Color, skin: Color, *, banded: bool, generator: Generator) -> None:
    """Draws the hair on the skull and over the forehead; under a forehead protector no strand falls over the brows."""
    match style:
        case "bald":
            pen.brush(path([(-8, -8), (-5.5, -11.5), (-1, -13)]), lighter(lighter(skin)), width=2.2)
        case "mohawk":
            _mohawk(pen, color, skin, generator)
        case _:
            _cap(pen, style, color, skin, banded=banded, generator=generator)


def _curtain(pen: Pen, color: Color, generator: Generator) -> None:
    bottom, half = generator.uniform(26, 36), generator.uniform(16.5, 19.5)
    wave = generator.uniform(-1.8, 1.8)
    side = path([(11, -12), (14.8, -4), (half - 1 + wave, 8), (half - wave, 20), (half + 0.5, bottom)])
    tips = np.linspace(half - 2, -half + 2, 9)
    hem = np.stack([tips, bottom + np.where(np.arange(9) % 2 == 0, 4.5, 0.5) + generator.uniform(-1, 1, 9)], axis=1)
    pen.shape(np.vstack([side, hem, mirrored(side)[::-1]]), color, shade=3)
    for x in (-half + 3.5, half - 3.5):
        pen.stroke(path([(x * 0.9, 6), (x, 16), (x * 1.03, bottom - 3)]), width=0.7)


def _ponytail(pen: Pen, color: Color, generator: Generator) -> None:
    side = -1 if generator.random() < 0.5 else 1
    reach, drop = generator.uniform(19, 23), generator.uniform(12, 24)
    flow = generator.uniform(-1.5, 1.5)
    crest = path([(2, -12), (7, -22), (15, -24), (reach + 3, -17), (reach + 6, -4 + flow), (reach + 2, drop)])
    under = path([(reach - 3, drop - 6), (reach - 5, flow), (reach - 6, -9), (11, -13)])
    tail = np.vstack([crest, under[:1] + np.array((0, 3)), under]) * (side, 1)
    pen.shape(tail, color, shade=2.5)
    pen.stroke(path([(side * 10, -19), (side * reach, -14), (side * (reach + 1), -2)]), width=0.7)
    pen.shape(oval(side * 8, -16.5, 3.4, 3.4), _ribbon(color), shade=0)


def _twin_tails(pen: Pen, color: Color, generator: Generator) -> None:
    reach, drop = generator.uniform(21, 24.5), generator.uniform(16, 28)
    outer = path([(11, -12), (17, -17.5), (reach + 2.5, -12), (reach + 4.5, 2), (reach, drop)])
    inner = path([(reach - 3.5, drop - 7), (reach - 6, 2), (14, -5)])
    tail = np.vstack([outer, [(reach - 3.2, drop + 1.5)], inner])
    for points, side in ((tail, 1), (mirrored(tail), -1)):
        pen.shape(points, color, shade=2.5)
        pen.stroke(path([(side * 17, -12), (side * (reach + 0.5), -4), (side * (reach - 1), drop - 8)]), width=0.7)
        pen.shape(oval(side * 14.2, -10.5, 3.2, 3.6), _ribbon(color), shade=0)


def _ribbon(hair: Color) -> Color:
    """Red, or blue in hair that is itself reddish or light."""
    return (214, 50, 56) if hair[0] < 190 else (44, 84, 190)


def _buns(pen: Pen, color: Color, generator: Generator) -> None:
    radius = generator.uniform(6.2, 7.6)
    for side in (-1, 1):
        x, y = side * generator.uniform(11, 13), generator.uniform(-17.5, -15.5)
        pen.shape(oval(x, y, radius, radius), color, shade=2)
        swirl = [(x + side * 3.4, y - 2), (x, y - 3.2), (x - side * 3, y), (x, y + 2), (x + side * 1.4, y)]
        pen.stroke(path(swirl), width=0.8)
    for side in (-1, 1):
        pen.shape(path([(side * 12, 2), (side * 15, 10), (side * 12.5, 19), (side * 10, 10)]), color, shade=0)


def _burst(
    generator: Generator, *, spread: tuple[float, float], count: int, reach: tuple[float, float], valley: float
) -> Points:
    """Spikes around the skull, clockwise from the first angle of `spread` to the second (degrees, 270 is up)."""
    edges = np.radians(np.linspace(*spread, 2 * count + 1))
    step = edges[1] - edges[0]
    radii = np.where(np.arange(2 * count + 1) % 2 == 1, 0.0, valley + generator.uniform(-0.6, 0.6, 2 * count + 1))
    radii[1::2] = generator.uniform(*reach, count)
    edges[1::2] += generator.uniform(-0.45, 0.45, count) * step
    return np.stack([radii * np.cos(edges), radii * np.sin(edges)], axis=1)


def _mohawk(pen: Pen, color: Color, skin: Color, generator: Generator) -> None:
    stubble = path([(-12.6, -1), (-12.6, -8), (-7, -13.2), (0, -14.5), (7, -13.2), (12.6, -8), (12.6, -1)])
    temple = [(10, -6), (5, -8), (0, -9), (-5, -8), (-10, -6)]
    pen.shape(np.vstack([stubble, temple]), blend(skin, color, 0.42), shade=1.5)
    count = int(generator.integers(3, 6))
    crest = _burst(generator, spread=(232, 308), count=count, reach=(26, 29.5), valley=21.5)
    forelock = [(5.5, -10), (3.4, -5), (1.2, -8), (-1, -4), (-3.4, -8), (-6, -10)]
    pen.shape(np.vstack([[(-8, -13)], crest, [(8, -13)], forelock]), color, shade=3)
    for x in (-3.5, 0.0, 3.5):
        pen.stroke(path([(x * 0.6, -11), (x * 1.2, -17), (x * 2, -21)]), width=0.7)


def _cap(pen: Pen, style: str, color: Color, skin: Color, *, banded: bool, generator: Generator) -> None:
    locks = _SIDE_LOCKS[style] + generator.uniform(-1.5, 1.5)
    if style == "spiky":
        count = int(generator.integers(5, 8))
        top = _burst(generator, spread=(174, 366), count=count, reach=(22, 27.5), valley=16.8)
    elif style == "short":
        count = int(generator.integers(6, 10))
        top = _burst(generator, spread=(180, 360), count=count, reach=(17.6, 20), valley=16.2) * (0.9, 1)
    else:
        crown = generator.uniform(16.6, 18.4)
        dome = [(-8.4, 2.2 - crown), (0, -crown), (8.4, 2.2 - crown)]
        top = path([(-14.4, 0), (-13.6, -8), *dome, (13.6, -8), (14.4, 0)])
    fringe = _fringe(style, banded, generator)
    cast = np.minimum(fringe + np.array((0.6, 2.2)), (99, -1.8))
    pen.fill(np.vstack([[(10, -6), (9, -13), (-9, -13), (-10, -6)], cast[::-1]]), darker(skin))
    outline = np.vstack([_side_lock(locks, -1)[::-1], top, _side_lock(locks, 1), fringe])
    pen.shape(outline, color, shade=2.4)
    _shine(pen, outline, color, generator)
    for x in generator.uniform(-9, 9, 0 if banded else 2):
        pen.stroke(path([(x * 0.6, -14), (x * 0.9, -10.5), (x, -7.5)]), width=0.6)


def _side_lock(length: float, side: int) -> Points:
    """From the outer edge of the temple down to the tip and back to the inner edge."""
    right = [(14.2, 0.5), (13.8, length * 0.6), (12.4, length + 2), (10.6, length * 0.5), (10.4, -3)]
    return np.array(right) * (side, 1)


def _fringe(style: str, banded: bool, generator: Generator) -> Points:
    """The zigzag of strands over the forehead, from the right temple to the left one."""
    if banded:
        return np.array([(9, -6), (0, -7), (-9, -6)], dtype=float)
    if style in ("long", "twin tails") and generator.random() < 0.4:
        part = generator.uniform(-4, 4)
        return np.array([(9.5, -2.5), (part + 3.5, -9), (part, -12.5), (part - 3.5, -9), (-9.5, -2.5)])
    count = int(generator.integers(4, 7))
    edges = np.linspace(9.6, -9.6, 2 * count + 1)
    lean = generator.uniform(-2.4, 2.4)
    tips = generator.uniform(-2.6, 0.6, 2 * count + 1)
    y = np.where(np.arange(2 * count + 1) % 2 == 1, tips, generator.uniform(-8, -5.5, 2 * count + 1))
    x = edges + np.where(np.arange(2 * count + 1) % 2 == 1, lean, 0)
    return np.stack([x, y], axis=1)


def _shine(pen: Pen, outline: Points, color: Color, generator: Generator) -> None:
    """A jagged gloss around the crown."""
    middle, width = generator.uniform(-6, 6), generator.uniform(4, 7)
    x = np.linspace(middle - width, middle + width, 9)
    arc = np.stack([x, -14.6 + 0.03 * x**2], axis=1)
    teeth = np.where(np.arange(9) % 2 == 1, 3.2, 1.2) * np.sin(np.linspace(0.3, np.pi - 0.3, 9))
    jagged = arc + np.stack([np.zeros(9), teeth], axis=1)
    pen.inlay(outline, np.vstack([arc, jagged[::-1]]), lighter(color))
