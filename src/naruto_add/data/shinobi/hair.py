"""Hair: the part behind the bust and the part on the skull. The origin is the middle of the head."""

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.palette import Color, blend, darker, lighter
from naruto_add.data.shinobi.pen import Pen, Points, mirrored, oval, path

_SIDE_LOCKS = {"spiky": 5.0, "long": 15.0, "short": 3.0, "ponytail": 6.0, "twin tails": 8.0, "buns": 7.0}


def draw_back_hair(pen: Pen, style: str, color: Color, generator: Generator) -> None:
    """Draws the hair that bust and head partly cover."""
    match style:
        case "long":
            _curtain(pen, color, generator)
        case "ponytail":
            _ponytail(pen, color, generator)
        case "twin tails":
            _twin_tails(pen, color, generator)
        case "buns":
            _buns(pen, color, generator)


def draw_front_hair(pen: Pen, style: str, color: Color, skin: Color, *, banded: bool, generator: Generator) -> None:
    """Draws the hair on skull and forehead. With a forehead protector (`banded`) no strand reaches the brows."""
    match style:
        case "bald":
            pen.brush(path([(-8, -8), (-5.5, -11.5), (-1, -13)]), blend(skin, lighter(skin), 0.7), width=2.8)
        case "mohawk":
            _mohawk(pen, color, skin, generator)
        case _:
            _cap(pen, style, color, skin, banded=banded, generator=generator)


def _curtain(pen: Pen, color: Color, generator: Generator) -> None:
    bottom, half = generator.uniform(24, 34), generator.uniform(17, 19.5)
    side = path([(11, -12), (15, -4), (half - 1, 8), (half, 18), (half + 0.5, bottom)])
    hem = [(half * 0.5, bottom + 4), (0, bottom + 1), (-half * 0.5, bottom + 4)]
    pen.shape(np.vstack([side, hem, mirrored(side)[::-1]]), color, shade=3)


def _ponytail(pen: Pen, color: Color, generator: Generator) -> None:
    side = -1 if generator.random() < 0.5 else 1
    reach, drop = generator.uniform(19, 22), generator.uniform(12, 22)
    crest = path([(2, -12), (7, -20), (15, -22), (reach + 3, -16), (reach + 5, -3), (reach + 1, drop)])
    under = path([(reach - 5, 0), (reach - 7, -7), (11, -11)])
    pen.shape(np.vstack([crest, under]) * (side, 1), color, shade=3)
    pen.fill(oval(side * 9, -15.5, 3.6, 3.6), _ribbon(color))


def _twin_tails(pen: Pen, color: Color, generator: Generator) -> None:
    reach, drop = generator.uniform(20, 22.5), generator.uniform(16, 26)
    outer = path([(11, -12), (17, -17), (reach + 3, -12), (reach + 4.5, 2), (reach - 1, drop)])
    inner = path([(reach - 6.5, 2), (13, -5)])
    tail = np.vstack([outer, inner])
    for points, side in ((tail, 1), (mirrored(tail), -1)):
        pen.shape(points, color, shade=3)
        pen.fill(oval(side * 14.6, -11, 3.4, 3.8), _ribbon(color))


def _ribbon(hair: Color) -> Color:
    """Red; blue for reddish or light hair."""
    return (214, 74, 78) if hair[0] < 190 else (74, 108, 196)


def _buns(pen: Pen, color: Color, generator: Generator) -> None:
    radius = generator.uniform(7, 8)
    for side in (-1, 1):
        pen.shape(oval(side * 12.4, -14.5, radius, radius), color, shade=3)


def _burst(
    generator: Generator, *, spread: tuple[float, float], count: int, reach: tuple[float, float], valley: float
) -> Points:
    """Spikes around the skull, clockwise from the first angle of `spread` to the second (degrees, 270 is up)."""
    edges = np.radians(np.linspace(*spread, 2 * count + 1))
    step = edges[1] - edges[0]
    radii = np.where(np.arange(2 * count + 1) % 2 == 1, 0.0, valley + generator.uniform(-0.6, 0.6, 2 * count + 1))
    radii[1::2] = generator.uniform(*reach, count)
    edges[1::2] += generator.uniform(-0.3, 0.3, count) * step
    return np.stack([radii * np.cos(edges), radii * np.sin(edges)], axis=1)


def _mohawk(pen: Pen, color: Color, skin: Color, generator: Generator) -> None:
    stubble = path([(-12.6, -2), (-12.6, -8), (-7, -13.2), (0, -14.5), (7, -13.2), (12.6, -8), (12.6, -2)])
    pen.fill(np.vstack([stubble, [(9, -8), (0, -9), (-9, -8)]]), blend(skin, color, 0.35))
    lean = generator.uniform(-2, 2)
    sweep = [(-7, -10), (-8.5 + lean, -18), (-8.5 + lean, -25), (-3.5 + lean, -22), (lean, -28), (3.5 + lean, -22)]
    tip = [(8.5 + lean, -25), (8.5 + lean, -18), (7, -10), (4, -7), (0, -4.5), (-4, -7)]
    pen.shape([*sweep, *tip], color, shade=4)


def _cap(pen: Pen, style: str, color: Color, skin: Color, *, banded: bool, generator: Generator) -> None:
    locks = _SIDE_LOCKS[style] + generator.uniform(-1, 1)
    if style == "spiky":
        count = int(generator.integers(5, 7))
        top = _burst(generator, spread=(164, 376), count=count, reach=(22.5, 26), valley=15.8)
    elif style == "short":
        count = int(generator.integers(4, 7))
        top = _burst(generator, spread=(180, 360), count=count, reach=(18.4, 20.4), valley=15.6) * (0.92, 0.96)
    else:
        crown = generator.uniform(16.4, 17.6)
        dome = [(-8.4, 2.2 - crown), (0, -crown), (8.4, 2.2 - crown)]
        top = path([(-14.4, 0), (-13.6, -8), *dome, (13.6, -8), (14.4, 0)])
    fringe = _fringe(style, banded, generator)
    cast = np.minimum(fringe + np.array((0.4, 2.0)), (99, -2.4))
    pen.fill(np.vstack([[(10, -6), (9, -13), (-9, -13), (-10, -6)], cast[::-1]]), darker(skin))
    outline = np.vstack([_side_lock(locks, -1)[::-1], top, _side_lock(locks, 1), fringe])
    pen.shape(outline, color, shade=2.6)
    middle = generator.uniform(-5, 5)
    gloss = path([(middle - 6, -10.6), (middle, -12), (middle + 6, -10.6)])
    pen.brush(gloss, blend(color, lighter(color), 0.6), width=3)


def _side_lock(length: float, side: int) -> Points:
    """Points from the outer edge of the temple down to the tip and up to the inner edge."""
    right = [(14.4, 0.5), (14.2, length * 0.6), (12.6, length + 2), (10.4, length * 0.5), (10, -3)]
    return np.array(right) * (side, 1)


def _fringe(style: str, banded: bool, generator: Generator) -> Points:
    """Points of two or three broad strands, or of a parting, from the right temple to the left."""
    if banded:
        return np.array([(9, -6), (0, -7), (-9, -6)], dtype=float)
    if style in ("long", "twin tails") and generator.random() < 0.4:
        part = generator.uniform(-4, 4)
        return np.array([(9.5, -3), (part + 3.5, -8), (part, -10.5), (part - 3.5, -8), (-9.5, -3)])
    count = 3 if style == "spiky" else 2
    x = np.linspace(9.4, -9.4, 2 * count + 1)
    y = np.where(np.arange(2 * count + 1) % 2 == 1, generator.uniform(-3.4, -2.2), generator.uniform(-7.6, -6))
    x[1::2] += generator.uniform(-2, 2)
    return np.stack([x, y], axis=1)
