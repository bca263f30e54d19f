"""The backgrounds: flat, bright, without ink, so that the inked figure stands out."""

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.palette import PLAIN, WHITE, Color, blend, darker, jittered
from naruto_add.data.shinobi.pen import Pen, Points, box, oval, path


def paint_scenery(pen: Pen, background: str, generator: Generator) -> None:
    """Covers the whole picture (0..64 in both directions) with the named background."""
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
    _bands(pen, (104, 190, 250), (206, 238, 255), generator)
    _clouds(pen, generator, count=2)
    for x in np.arange(-6.0, 66.0, 11.5) + generator.uniform(-3, 3):
        _house(pen, x, generator.uniform(14, 27), generator)
    for x in np.arange(-10.0, 70.0, 15.0) + generator.uniform(-4, 4):
        _house(pen, x, generator.uniform(31, 40), generator)


def _house(pen: Pen, x: float, top: float, generator: Generator) -> None:
    roofs = ((222, 74, 52), (236, 132, 44), (46, 148, 150), (186, 60, 84))
    roof = jittered(roofs[generator.integers(len(roofs))], generator)
    wall = jittered((250, 230, 188), generator)
    width = generator.uniform(11, 14)
    pen.fill(box(x, top, x + width, 64), wall)
    pen.fill(box(x + width * 0.7, top, x + width, 64), blend(wall, (150, 110, 90), 0.35))
    ridge = [(x + width * 0.72, top - 4.5), (x + width * 0.28, top - 4.5)]
    pen.fill([(x - 2.5, top + 2), (x + width + 2.5, top + 2), *ridge], roof)
    pen.fill(box(x - 2.5, top + 1.2, x + width + 2.5, top + 2.6), darker(roof))
    for row in np.arange(top + 5.5, 64, 8.0):
        pen.fill(box(x + 2, row, x + 4.6, row + 3.6), (94, 76, 96))
        pen.fill(box(x + 6.4, row, x + 9, row + 3.6), (94, 76, 96))


def _forest(pen: Pen, generator: Generator) -> None:
    _bands(pen, (196, 236, 130), (92, 182, 86), generator)
    for x in np.arange(2.0, 64.0, 9.0) + generator.uniform(-3, 3, 7):
        pen.fill(box(x - 1.4, 0, x + 1.4, 64), (116, 150, 72))
    for x in (generator.uniform(2, 11), generator.uniform(52, 62), generator.uniform(20, 44)):
        half = generator.uniform(2.6, 4.2)
        pen.fill([(x - half, 0), (x + half, 0), (x + half + 1.5, 64), (x - half - 1.5, 64)], (122, 76, 44))
        pen.fill([(x, 0), (x + half, 0), (x + half + 1.5, 64), (x + 1, 64)], (84, 50, 44))
    for row, color in ((9.0, (24, 112, 62)), (4.0, (44, 148, 70)), (-1.0, (86, 186, 78))):
        for x in np.arange(-2.0, 70.0, 9.0) + generator.uniform(-3, 3, 8):
            pen.fill(oval(x, row + generator.uniform(-2, 2), generator.uniform(6, 8), generator.uniform(4, 6)), color)
    for x in np.arange(-2.0, 70.0, 8.0) + generator.uniform(-3, 3, 9):
        pen.fill(oval(x, generator.uniform(58, 63), 6.5, generator.uniform(6, 10)), (30, 124, 66))


def _sunset(pen: Pen, generator: Generator) -> None:
    _bands(pen, (214, 58, 98), (255, 206, 84), generator)
    x, y = generator.uniform(12, 52), generator.uniform(18, 30)
    pen.fill(oval(x, y, 18, 18), (255, 184, 84))
    pen.fill(oval(x, y, 14, 14), (255, 240, 150))
    for row in (y + 4, y + 8):
        pen.fill(oval(x + generator.uniform(-14, 14), row, 17, 1.3), (244, 116, 84))
    pen.fill(_ridge(generator, top=44, swing=4), (150, 44, 110))
    pen.fill(_ridge(generator, top=52, swing=3), (96, 28, 92))


def _night(pen: Pen, generator: Generator) -> None:
    _bands(pen, (16, 22, 84), (58, 74, 176), generator)
    _dots(pen, (255, 250, 204), generator, count=34, smallest=0.35, largest=0.95)
    x = generator.uniform(5, 15) if generator.random() < 0.5 else generator.uniform(49, 59)
    y, radius = generator.uniform(8, 16), generator.uniform(7, 9.5)
    pen.fill(oval(x, y, radius * 1.3, radius * 1.3), (74, 92, 196))
    pen.fill(oval(x, y, radius, radius), (255, 246, 190))
    if generator.random() < 0.5:
        pen.fill(oval(x + radius * 0.45, y - radius * 0.25, radius * 0.85, radius * 0.85), (44, 56, 150))
    pen.fill(_ridge(generator, top=48, swing=5), (18, 18, 62))


def _mountain(pen: Pen, generator: Generator) -> None:
    _bands(pen, (92, 178, 250), (214, 240, 255), generator)
    _clouds(pen, generator, count=2)
    _peak(pen, generator.uniform(24, 40), generator.uniform(10, 18), 30, (142, 156, 204))
    _peak(pen, generator.uniform(4, 14), generator.uniform(8, 18), 24, (110, 122, 178))
    _peak(pen, generator.uniform(50, 60), generator.uniform(6, 16), 25, (96, 106, 166))
    pen.fill(_ridge(generator, top=52, swing=3), (86, 172, 92))


def _peak(pen: Pen, x: float, top: float, half: float, color: Color) -> None:
    drop = (64 - top) * 0.34
    side = half * 0.34
    snow = [(x, top), (x + side, top + drop), (x + side * 0.4, top + drop * 0.72), (x, top + drop * 1.15)]
    pen.fill([(x - half, 64), (x, top), (x + half, 64)], color)
    pen.fill([(x, top), (x + half, 64), (x + half * 0.1, 64), (x - half * 0.08, top + 24)], darker(color))
    pen.fill([*snow, (x - side * 0.45, top + drop * 0.75), (x - side, top + drop)], WHITE)


def _waterfall(pen: Pen, generator: Generator) -> None:
    _bands(pen, (150, 214, 250), (220, 242, 250), generator)
    rock = jittered((112, 120, 128), generator)
    pen.fill(_ridge(generator, top=9, swing=2), rock)
    for x, y in zip(generator.uniform(0, 64, 22), generator.uniform(14, 56, 22), strict=True):
        slab = box(x - 6, y - 2, x + 6, y + 2) + generator.uniform(-1.2, 1.2, (4, 2))
        pen.fill(slab, darker(rock) if generator.random() < 0.6 else blend(rock, WHITE, 0.22))
    for x in np.arange(-2.0, 70.0, 9.0) + generator.uniform(-3, 3, 8):
        pen.fill(oval(x, 9 + generator.uniform(-2, 1), 6, 4), (66, 168, 84))
    for centre in (generator.uniform(6, 15), generator.uniform(49, 58)):
        _falls(pen, centre, generator.uniform(7, 10), generator)
    for x in np.arange(-2.0, 70.0, 6.0):
        pen.fill(oval(x, 61 + generator.uniform(-3, 2), 5, 6), (240, 252, 255))


def _falls(pen: Pen, centre: float, half: float, generator: Generator) -> None:
    """A sheet of water that widens as it falls, with bright streaks of uneven length."""
    sheet = [(centre - half, 7), (centre + half, 7), (centre + half + 2, 64), (centre - half - 2, 64)]
    pen.fill(sheet, (56, 156, 240))
    for x in np.linspace(centre - half + 1.5, centre + half - 1.5, 5):
        top, bottom = generator.uniform(6, 26), generator.uniform(40, 64)
        streak = [(x, top), (x, top + 3), (x, bottom - 3), (x + 0.4, bottom)]
        pen.brush(streak, (226, 248, 255), width=generator.uniform(2, 3.4))
    pen.fill(oval(centre, 7.5, half + 0.6, 1.8), (240, 252, 255))


def _desert(pen: Pen, generator: Generator) -> None:
    _bands(pen, (92, 206, 226), (238, 240, 190), generator)
    x = generator.uniform(6, 16) if generator.random() < 0.5 else generator.uniform(48, 58)
    pen.fill(oval(x, generator.uniform(8, 14), 6.5, 6.5), (255, 252, 214))
    for top, color in ((26, (240, 190, 106)), (37, (232, 164, 76)), (49, (218, 138, 58))):
        crest, height = generator.uniform(8, 56), top - generator.uniform(2, 7)
        left, right = top + generator.uniform(0, 8), top + generator.uniform(0, 8)
        slope = path([(-2, left), (crest * 0.5, (left + height) / 2 + 1.5), (crest, height)])
        back = path([(crest, height), (crest * 0.5 + 33, (right + height) / 2 + 2), (66, right)])
        pen.fill(np.vstack([slope, back, [(66, 66), (-2, 66)]]), color)
        foot = path([(66, 66), (crest - 12, 66), (crest + 5, 50), (crest, height)])
        pen.fill(np.vstack([back, foot]), blend(color, (150, 66, 60), 0.3))


def _snow(pen: Pen, generator: Generator) -> None:
    _bands(pen, (132, 172, 214), (206, 224, 242), generator)
    for x in np.arange(2.0, 64.0, 10.0) + generator.uniform(-3, 3, 7):
        _pine(pen, x, generator.uniform(10, 26))
    pen.fill(_ridge(generator, top=46, swing=3), (246, 250, 255))
    pen.fill(_ridge(generator, top=56, swing=2), (214, 228, 246))
    _dots(pen, WHITE, generator, count=46, smallest=0.6, largest=1.5)


def _pine(pen: Pen, x: float, top: float) -> None:
    pen.fill(box(x - 1, 40, x + 1, 54), (104, 78, 76))
    for tier in range(3):
        y, half = top + tier * 8, 4.0 + tier * 1.6
        pen.fill([(x - half, y + 11), (x, y), (x + half, y + 11)], (58, 116, 122))
        pen.fill([(x - half * 0.6, y + 6.6), (x, y), (x + half * 0.6, y + 6.6), (x, y + 5)], (240, 248, 255))


def _cherry_blossoms(pen: Pen, generator: Generator) -> None:
    _bands(pen, (156, 220, 250), (236, 246, 252), generator)
    flip = bool(generator.random() < 0.5)
    pen = pen.moved(64.0 if flip else 0.0, 0, flip=flip)
    pen.fill(path([(-2, 66), (3, 40), (2, 20), (-2, 8)]), (110, 66, 58))
    pen.brush(path([(-3, 50), (5, 30), (20, 14), (44, 8), (60, 10)]), (110, 66, 58), width=5)
    pinks = ((240, 110, 168), (252, 150, 196), (255, 196, 222))
    for tone, color in enumerate(pinks):
        for x in np.linspace(-2, 66, 9) + generator.uniform(-3, 3, 9):
            y = 8 + 0.004 * (x - 50) ** 2 + generator.uniform(-5, 3) - tone * 2.5
            pen.fill(oval(x, y, generator.uniform(4.5, 7) - tone, generator.uniform(3.6, 5.4) - tone * 0.8), color)
    for y in np.arange(20.0, 52.0, 8.0):
        pen.fill(oval(generator.uniform(-2, 5), y, 6.5, 5), pinks[generator.integers(3)])
    for x, y in zip(generator.uniform(0, 64, 26), generator.uniform(18, 64, 26), strict=True):
        pen.fill(oval(x, y, 1.5, 0.9), pinks[generator.integers(2)])


def _plain(pen: Pen, color: Color, generator: Generator) -> None:
    """One colour; behind the head rays, a disc, slanted stripes or nothing, in a neighbouring tone of it."""
    base = jittered(color, generator)
    tone = blend(base, (180, 180, 196), 0.25) if min(color) > 200 else blend(base, WHITE, 0.24)
    pen.fill(box(0, 0, 64, 64), base)
    match generator.integers(4):
        case 0:
            turn = generator.uniform(0, np.pi)
            for angle in np.arange(12) * np.pi / 6 + turn:
                ends = [(32 + 60 * np.cos(angle + side), 32 + 60 * np.sin(angle + side)) for side in (-0.13, 0.13)]
                pen.fill([(32, 32), *ends], tone)
        case 1:
            pen.fill(oval(32 + generator.uniform(-4, 4), 28, 25, 25), tone)
        case 2:
            width, lean = generator.uniform(5, 9), generator.uniform(-30, 30)
            for x in np.arange(-40.0, 104.0, width * 2):
                pen.fill([(x, 0), (x + width, 0), (x + width + lean, 64), (x + lean, 64)], tone)


def _bands(pen: Pen, top: Color, bottom: Color, generator: Generator) -> None:
    """A sky of nine flat steps from one colour to another."""
    top, bottom = jittered(top, generator), jittered(bottom, generator)
    for step in range(9):
        pen.fill(box(0, step * 7.2, 64, 64), blend(top, bottom, step / 8))


def _clouds(pen: Pen, generator: Generator, *, count: int) -> None:
    for _ in range(count):
        x, y = generator.uniform(0, 64), generator.uniform(4, 16)
        for dx, dy, radius in ((-5, 1, 3.4), (0, -1, 4.6), (5, 1, 3.6)):
            pen.fill(oval(x + dx, y + dy, radius * 1.4, radius), WHITE)


def _dots(pen: Pen, color: Color, generator: Generator, *, count: int, smallest: float, largest: float) -> None:
    """Stars or snowflakes."""
    for x, y, radius in generator.uniform((0, 0, smallest), (64, 58, largest), (count, 3)).tolist():
        pen.fill(oval(x, y, radius, radius), color)


def _ridge(generator: Generator, *, top: float, swing: float) -> Points:
    """A rolling hill that fills the picture from about `top` down."""
    crest = path([(x, top + generator.uniform(-swing, swing)) for x in np.linspace(-4, 68, 6)])
    return np.vstack([crest, [(68, 68), (-4, 68)]])
