"""Heads, faces and headwear, in the head's own frame: the face is the unit circle around (0, 0), y grows downwards."""

import numpy as np

from recipe.drawing import Color, Surface, chance, choose, darker, lighter, mixed

HEADWEAR: tuple[str, ...] = ("straw hat", "cap", "headband")
EYEWEAR: tuple[str, ...] = ("glasses", "eye patch")
STRAW: Color = (232, 200, 112)
_EYE: Color = (48, 36, 36)
_BROW: Color = (92, 66, 50)


def draw_head(head: Surface, skin: Color, *, square_jaw: bool) -> None:
    """Ears and a shaded face without features are drawn."""
    for side in (-1, 1):
        head.ellipse((side * 0.98, 0.1), (0.17, 0.24), darker(skin, 0.12))
    jaw = 0.74 if square_jaw else 0.62
    outline = np.array(
        [
            (0, -1),
            (0.72, -0.72),
            (1, 0),
            (0.93, 0.4),
            (jaw, 0.8),
            (0, 1.02),
            (-jaw, 0.8),
            (-0.93, 0.4),
            (-1, 0),
            (-0.72, -0.72),
        ]
    )
    head.curve(outline, darker(skin, 0.1))
    head.curve(outline * (0.93, 0.97) + (-0.06, -0.03), skin)


def draw_features(head: Surface, subject: str, skin: Color, *, turn: float, generator: np.random.Generator) -> None:
    """Dot eyes, brows, a nose and a mouth are drawn; `turn` in -1..1 moves them left or right."""
    shift = turn * 0.2
    child, old, female = subject in ("boy", "girl"), "old" in subject, "woman" in subject or subject == "girl"
    size = 0.135 if child else 0.11
    slope = generator.uniform(-0.05, 0.05)
    gap, eye_y = 0.38, 0.16 if child else 0.08
    for side in (-1, 1):
        x = shift + side * gap * (1 - 0.12 * side * turn)
        head.ellipse((x, eye_y), (size * 0.95, size * 1.25), _EYE)
        brow = (204, 204, 206) if old else _BROW
        head.stroke(
            [(x - 0.17, eye_y - 0.27 - slope * side), (x + 0.17, eye_y - 0.27 + slope * side)],
            0.06 if female else 0.1,
            brow,
        )
        if female:
            head.stroke([(x + side * 0.06, eye_y - 0.1), (x + side * 0.22, eye_y - 0.2)], 0.06, _EYE)
        if child or female:
            head.ellipse((x + side * 0.16, eye_y + 0.36), (0.15, 0.1), mixed(skin, (240, 110, 100), 0.32))
        if old:
            head.stroke([(x - 0.15, eye_y + 0.24), (x + 0.15, eye_y + 0.26)], 0.05, darker(skin, 0.24))
    head.ellipse((shift * 1.4, 0.36), (0.1, 0.08), darker(skin, 0.2))
    lips = (196, 62, 68) if female and not child else darker(mixed(skin, (180, 60, 60), 0.5), 0.25)
    _draw_mouth(head, shift, lips, generator)
    if old:
        for side in (-1, 1):
            head.stroke([(shift + side * 0.42, 0.44), (shift + side * 0.48, 0.66)], 0.05, darker(skin, 0.24))
        head.stroke([(shift - 0.3, -0.36), (shift + 0.3, -0.36)], 0.05, darker(skin, 0.18))


def _draw_mouth(head: Surface, shift: float, color: Color, generator: np.random.Generator) -> None:
    match choose(generator, ("smile", "smile", "flat", "open")):
        case "smile":
            head.arc((shift, 0.54), (0.27, 0.14), 0.15, np.pi - 0.15, 0.09, color)
        case "flat":
            head.stroke([(shift - 0.2, 0.63), (shift + 0.2, 0.63)], 0.09, color)
        case _:
            head.ellipse((shift, 0.64), (0.17, 0.11), color)


def draw_beard(head: Surface, color: Color, *, turn: float) -> None:
    """A full beard with a moustache covers jaw and chin; the mouth stays visible."""
    shift = turn * 0.15
    head.curve(
        [
            (-1.0, 0.12),
            (-0.8, 0.42),
            (-0.36 + shift, 0.44),
            (shift, 0.42),
            (0.36 + shift, 0.44),
            (0.8, 0.42),
            (1.0, 0.12),
            (0.92, 0.78),
            (0.5, 1.24),
            (0, 1.42),
            (-0.5, 1.24),
            (-0.92, 0.78),
        ],
        color,
    )
    head.ellipse((shift, 0.66), (0.22, 0.08), (170, 76, 72))


def draw_mask(head: Surface, color: Color, *, turn: float) -> None:
    """A cloth covers the face from the nose to the chin."""
    shift = turn * 0.15
    head.curve(
        [
            (-0.98, 0.26),
            (-0.4 + shift, 0.36),
            (shift, 0.3),
            (0.4 + shift, 0.36),
            (0.98, 0.26),
            (0.9, 0.62),
            (0.55, 0.98),
            (0, 1.1),
            (-0.55, 0.98),
            (-0.9, 0.62),
        ],
        color,
    )
    head.stroke([(-0.7 + shift, 0.6), (shift, 0.68), (0.7 + shift, 0.6)], 0.06, darker(color, 0.2))


def draw_scar(head: Surface, skin: Color, *, turn: float) -> None:
    """A stitched line runs down one cheek."""
    x = turn * 0.2 + 0.58
    color = mixed(darker(skin, 0.2), (190, 50, 50), 0.6)
    head.stroke([(x - 0.12, 0.3), (x + 0.1, 0.74)], 0.1, color)
    for y in (0.42, 0.6):
        head.stroke([(x - 0.16, y + 0.08), (x + 0.14, y - 0.06)], 0.06, color)


def draw_eyewear(head: Surface, eyewear: str, *, turn: float, generator: np.random.Generator) -> None:
    """Glasses over both eyes, or a patch over one with its band around the head."""
    shift = turn * 0.2
    if eyewear == "eye patch":
        side = choose(generator, (-1, 1))
        x = shift + side * 0.38
        head.stroke([(-0.95 * side, -0.42), (x, 0.02), (side * 0.98, 0.14)], 0.09, (30, 28, 34))
        head.ellipse((x, 0.1), (0.27, 0.28), (30, 28, 34))
        return
    frame = choose(generator, ((44, 40, 52), (150, 50, 46), (60, 84, 140)))
    lens = chance(generator, 0.5)
    for side in (-1, 1):
        x = shift + side * 0.39
        if lens:
            head.ellipse((x, 0.1), (0.28, 0.27), (226, 240, 250))
            head.ellipse((x, 0.1), (0.1, 0.13), _EYE)
        head.arc((x, 0.1), (0.3, 0.29), 0, 2 * np.pi, 0.09, frame)
        head.stroke([(x + side * 0.3, 0.06), (side * 0.98, -0.02)], 0.08, frame)
    head.stroke([(shift - 0.1, 0.08), (shift + 0.1, 0.08)], 0.09, frame)


def draw_headwear(head: Surface, headwear: str, color: Color) -> None:
    """A straw hat or a cap hides the top of the head; a cloth headband crosses the forehead."""
    match headwear:
        case "straw hat":
            head.ellipse((0, -0.56), (1.95, 0.42), darker(color, 0.16))
            head.ellipse((0, -0.62), (1.95, 0.38), color)
            head.curve(
                [(-0.95, -0.6), (-0.8, -1.3), (0, -1.56), (0.8, -1.3), (0.95, -0.6), (0, -0.48)], lighter(color, 0.15)
            )
            head.polygon([(-0.97, -0.78), (0.97, -0.78), (0.95, -0.56), (0, -0.46), (-0.95, -0.56)], (176, 84, 52))
        case "cap":
            head.curve(
                [(-1.12, -0.3), (-1.05, -0.95), (-0.5, -1.4), (0.3, -1.42), (1.0, -1.0), (1.12, -0.3), (0, -0.42)],
                color,
            )
            head.curve(
                [(-1.1, -0.42), (0, -0.56), (1.1, -0.42), (1.75, -0.16), (1.4, -0.08), (0, -0.24), (-1.0, -0.24)],
                darker(color, 0.25),
            )
            head.circle((0, -1.42), 0.13, darker(color, 0.25))
        case "headband":
            head.polygon([(-1.08, -0.42), (0, -0.62), (1.08, -0.42), (1.08, -0.14), (0, -0.34), (-1.08, -0.14)], color)
            head.polygon([(1.05, -0.4), (1.6, -0.2), (1.5, 0.02), (1.04, -0.18)], darker(color, 0.15))
            head.polygon([(1.05, -0.3), (1.42, 0.2), (1.24, 0.32), (1.0, -0.14)], darker(color, 0.25))
