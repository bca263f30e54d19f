"""Hands and the items they hold. The origin of an item is the fist around it."""

import numpy as np
from numpy.random import Generator

from naruto_add.data.shinobi.garments import Dress, draw_sleeve
from naruto_add.data.shinobi.palette import CLOTH, GOLD, STEEL, Color, jittered
from naruto_add.data.shinobi.pen import Pen, box, loop, mirrored, oval

_WOOD: Color = (150, 92, 50)
_CREAM: Color = (250, 234, 196)
_EDGE: Color = (150, 162, 186)


def draw_item(pen: Pen, item: str, dress: Dress, generator: Generator) -> None:
    """Draws a forearm with the item in its fist, to the left or right of the bust."""
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
    """Draws both forearms, meeting under the chin with two fingers raised."""
    arm = np.array([(22, 52), (24, 40), (5, 26), (0, 34), (0, 52)])
    for points in (arm, mirrored(arm)):
        pen.shape(points, dress.sleeve, shade=0)
    pen.shape(loop([(-2.8, 17), (0, 15.6), (2.8, 17), (6, 27), (5, 33), (-5, 33), (-6, 27)]), dress.skin, shade=2)


def _fist(pen: Pen, skin: Color) -> None:
    pen.shape(loop([(-4, -2.8), (0, -4), (4, -2.8), (4.6, 2.4), (0, 4.2), (-4.4, 2.4)]), skin, shade=1.6, width=0)


def _kunai(pen: Pen) -> None:
    pen.fill(box(-1.9, -9, 1.9, 4), (140, 70, 72))
    pen.shape([(0, -29), (6, -15), (1.8, -7.5), (-1.8, -7.5), (-6, -15)], STEEL, shade=0, width=0.8)
    pen.fill([(0, -28), (5, -15), (0, -8)], _EDGE)


def _sword(pen: Pen, generator: Generator) -> None:
    grip = jittered(tuple(CLOTH.values())[generator.integers(6)], generator)
    pen.fill(box(-2, -6, 2, 9), grip)
    pen.shape([(-3, -7), (-3, -36), (2, -44), (3, -7)], STEEL, shade=0, width=0.8)
    pen.fill([(0.6, -8), (0.6, -39), (2, -43), (3, -8)], _EDGE)
    pen.fill(box(-6, -8.8, 6, -5.4), GOLD)


def _scroll(pen: Pen, generator: Generator) -> None:
    color = jittered(((206, 64, 66), (64, 108, 200), (70, 148, 92))[generator.integers(3)], generator)
    pen.shape(box(-7.5, -21, 7.5, -1), _CREAM, shade=0, width=0.8)
    for y in (-23.5, -2.5):
        pen.shape(box(-10, y, 10, y + 5), color, shade=0, width=0.8)
    pen.fill(oval(0, -10.5, 3.2, 3.2), color)


def _shuriken(pen: Pen, generator: Generator) -> None:
    turn = generator.uniform(0, np.pi / 2)
    angles = turn + np.arange(8) * np.pi / 4
    radii = np.where(np.arange(8) % 2 == 0, 12.5, 4.8)
    star = np.stack([radii * np.cos(angles), radii * np.sin(angles) - 11], axis=1)
    pen.shape(star, STEEL, shade=0, width=0.8)
    pen.fill(oval(0, -11, 2.6, 2.6), _EDGE)


def _fan(pen: Pen, generator: Generator) -> None:
    color = jittered(((222, 66, 70), (66, 116, 220), (150, 80, 190), (246, 240, 232))[generator.integers(4)], generator)
    angles = np.radians(np.linspace(-172, -18, 13))
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pen.shape(np.vstack([rim * 18, [(0, 0)]]), color, shade=0, width=0.8)
    pen.fill(np.vstack([rim * 10, [(0, 0)]]), _CREAM if min(color) < 200 else (222, 66, 70))


def _staff(pen: Pen, generator: Generator) -> None:
    pen.fill(box(-1.8, -32, 1.8, 30), jittered(_WOOD, generator))
    gem = jittered((GOLD, (220, 64, 76), (66, 136, 236), (70, 186, 116))[generator.integers(4)], generator)
    pen.shape(oval(0, -36, 6.2, 6.2), gem, shade=3, width=0.8)
