"""The things in a shinobi's hand, and the hands; every item is drawn around the fist that holds it."""

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.garments import Dress, draw_sleeve
from naruto_add.data.shinobi.palette import CLOTH, GOLD, STEEL, WHITE, Color, darker, jittered, lighter
from naruto_add.data.shinobi.pen import Pen, box, loop, mirrored, oval, path

_WOOD: Color = (150, 92, 50)
_CREAM: Color = (252, 236, 192)


def draw_item(pen: Pen, item: str, dress: Dress, generator: Generator) -> None:
    """Draws one forearm with the item in its fist, at the left or the right of the bust."""
    side = -1 if generator.random() < 0.5 else 1
    hand = (side * generator.uniform(16, 19), generator.uniform(27, 30))
    draw_sleeve(pen, dress, hand)
    lean = generator.uniform(2, 14) + (10 if item == "fan" else 0)
    held = pen.moved(*hand, degrees=side * lean, scale=generator.uniform(0.95, 1.1), flip=side < 0)
    match item:
        case "kunai":
            _kunai(held.moved(0, 0, scale=1.15))
        case "sword":
            _sword(held, generator)
        case "scroll":
            _scroll(held, generator)
        case "shuriken":
            _shuriken(held, generator)
        case "fan":
            _fan(held, generator)
        case _:
            _staff(held, generator)
    _fist(held, dress.skin)


def draw_hand_seal(pen: Pen, dress: Dress) -> None:
    """Draws both forearms meeting under the chin, with two fingers of each hand raised."""
    arm = np.array([(22, 52), (24, 40), (5, 26.5), (2.5, 34), (9, 52)])
    for points in (arm, mirrored(arm)):
        pen.shape(points, dress.sleeve, shade=2)
    pen.shape(loop([(-2.6, 17), (0, 15.6), (2.6, 17), (2.8, 26), (-2.8, 26)]), dress.skin, shade=0.8)
    pen.stroke([(0, 18), (0, 25)], width=0.8)
    pen.shape(loop([(-6, 25.5), (0, 24), (6, 25.5), (6.4, 32), (0, 34.5), (-6.4, 32)]), dress.skin, shade=1.2)
    for y in (27.4, 30):
        pen.stroke([(-5.6, y), (5.6, y)], width=0.7)


def _fist(pen: Pen, skin: Color) -> None:
    pen.shape(loop([(-4, -2.6), (0, -3.8), (4, -2.8), (4.4, 2.2), (0, 3.8), (-4.2, 2.4)]), skin, shade=1)
    for y in (-1.1, 1.2):
        pen.stroke([(-0.5, y), (4, y)], width=0.7)


def _kunai(pen: Pen) -> None:
    pen.shape(box(-1.5, -8, 1.5, 4), (126, 40, 44), shade=0)
    pen.shape(oval(0, 7, 2.8, 2.8), STEEL, shade=0)
    pen.fill(oval(0, 7, 1.0, 1.0), pen.ink)
    pen.shape([(0, -27), (4.8, -14), (1.8, -7.5), (-1.8, -7.5), (-4.8, -14)], STEEL, shade=0)
    pen.fill([(0, -24.5), (3.5, -14), (0, -9)], (120, 132, 156))


def _sword(pen: Pen, generator: Generator) -> None:
    grip = jittered(tuple(CLOTH.values())[generator.integers(6)], generator)
    pen.shape(box(-1.6, -6, 1.6, 11), grip, shade=0)
    blade = np.vstack([path([(-2.3, -7), (-1.9, -24), (2.2, -46)]), path([(2.2, -46), (3.2, -26), (2.3, -7)])])
    pen.shape(blade, (232, 238, 248), shade=0)
    pen.brush(path([(1.2, -8), (1.7, -24), (2.4, -42)]), (120, 136, 166), width=1.7)
    pen.shape(loop([(-5.4, -7), (0, -8.6), (5.4, -7), (0, -5.4)]), GOLD, shade=0)


def _scroll(pen: Pen, generator: Generator) -> None:
    color = jittered(((206, 40, 44), (40, 92, 200), (46, 140, 74))[generator.integers(3)], generator)
    pen = pen.moved(-6, -6, degrees=generator.uniform(-14, 4))
    for x in (-13.5, 9.5):
        pen.shape(box(x, -2.2, x + 4, 2.2), GOLD, shade=0)
    pen.shape(box(-11, -5, 11, 5), _CREAM, shade=2.4)
    for x in (-11, 7):
        pen.shape(box(x, -5, x + 4, 5), color, shade=1.6)
    pen.shape(box(-2.4, -5, 2.4, 5), color, shade=1.6, width=0.8)


def _shuriken(pen: Pen, generator: Generator) -> None:
    turn = generator.uniform(0, np.pi / 2)
    angles = turn + np.arange(8) * np.pi / 4
    radii = np.where(np.arange(8) % 2 == 0, 12.0, 4.0)
    star = np.stack([radii * np.cos(angles), radii * np.sin(angles) - 11], axis=1)
    pen.shape(star, STEEL, shade=0)
    for point in range(0, 8, 2):
        pen.fill([star[point] * 0.92 + (0, -0.9), star[point + 1], (0, -11)], (112, 124, 150))
    pen.shape(oval(0, -11, 2.2, 2.2), (70, 76, 96), shade=0, width=0.8)


def _fan(pen: Pen, generator: Generator) -> None:
    color = jittered(((222, 44, 50), (44, 104, 220), (150, 66, 190), (250, 250, 246))[generator.integers(4)], generator)
    angles = np.radians(np.linspace(-172, -18, 13))
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pen.shape(np.vstack([rim * 19, [(0, 0)]]), color, shade=0)
    band = WHITE if min(color) < 200 else (222, 44, 50)
    pen.fill(np.vstack([rim[1:-1] * 16, rim[1:-1][::-1] * 12.2]), band)
    pen.shape(np.vstack([rim * 8, [(0, 0)]]), _WOOD, shade=0, width=0.8)
    for spoke in rim[2:-2:2]:
        pen.stroke([spoke * 5, spoke * 18.5], width=0.7)


def _staff(pen: Pen, generator: Generator) -> None:
    pen.shape(box(-1.5, -34, 1.5, 30), jittered(_WOOD, generator), shade=0)
    if generator.random() < 0.5:
        pen.shape(oval(0, -41, 6.4, 7.4), GOLD, shade=0)
        pen.fill(oval(0, -41, 3.6, 4.6), darker(GOLD))
        pen.shape(box(-2.4, -35.5, 2.4, -32.5), GOLD, shade=0)
    else:
        gem = jittered(((220, 44, 60), (50, 130, 240), (60, 190, 110))[generator.integers(3)], generator)
        pen.shape(oval(0, -40, 5.4, 5.4), gem, shade=1.8)
        pen.fill(oval(-1.6, -41.6, 1.4, 1.4), lighter(lighter(gem)))
        pen.shape(box(-2.8, -35.5, 2.8, -31.5), GOLD, shade=0)
