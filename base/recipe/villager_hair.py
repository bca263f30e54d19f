"""Hair, in the head's own frame: the face is the unit circle around (0, 0), y grows downwards."""

import numpy as np

from recipe.drawing import Color, Points, Surface, choose, darker, lighter

HAIR_STYLES: tuple[str, ...] = (
    "spiky",
    "long",
    "short",
    "mohawk",
    "bald",
    "ponytail",
    "bun",
    "curly",
    "bob",
    "braids",
)
_CAP: Points = ((-1.06, 0.12), (-1.1, -0.4), (-0.75, -0.98), (0, -1.2), (0.75, -0.98), (1.1, -0.4), (1.06, 0.12))
_FRINGES: tuple[Points, ...] = (
    ((0.88, -0.2), (0.6, -0.52), (0.1, -0.45), (-0.5, -0.62), (-0.86, -0.2)),
    ((0.88, -0.15), (0.72, -0.5), (0.0, -0.62), (-0.72, -0.5), (-0.88, -0.15)),
    ((0.9, -0.1), (0.7, -0.35), (0.3, -0.75), (-0.3, -0.4), (-0.86, -0.15)),
)
_PARTED: Points = ((0.95, 0.1), (0.75, -0.3), (0.02, -0.86), (-0.75, -0.3), (-0.95, 0.1))
_STRAIGHT: Points = ((0.92, -0.1), (0.8, -0.36), (0.3, -0.34), (-0.3, -0.34), (-0.8, -0.36), (-0.92, -0.1))


def draw_hair_behind(head: Surface, style: str, color: Color, generator: np.random.Generator) -> None:
    """The part of the hair that the head and the clothes cover is drawn."""
    back = darker(color, 0.14)
    match style:
        case "long":
            _draw_mane(head, back, length=generator.uniform(1.7, 2.3))
        case "bob":
            _draw_mane(head, back, length=generator.uniform(0.85, 1.05))
        case "ponytail":
            reach = generator.uniform(0, 0.3)
            head.curve(
                [
                    (0.5, -1.0),
                    (1.15, -0.95),
                    (1.75 + reach, -0.3),
                    (1.8 + reach, 0.7),
                    (1.5, 1.5),
                    (1.3, 0.7),
                    (0.9, -0.2),
                ],
                back,
            )
        case "bun":
            head.circle((0, -1.34), 0.5, back)
            head.circle((-0.06, -1.38), 0.4, color)
        case "curly":
            for angle in np.linspace(0.72, 2.28, 13):
                around = (1.18 * np.cos(angle * np.pi), 1.14 * np.sin(angle * np.pi))
                head.circle(around, generator.uniform(0.36, 0.46), back)


def draw_hair_front(head: Surface, style: str, color: Color, generator: np.random.Generator) -> None:
    """The part of the hair that lies over the head is drawn."""
    match style:
        case "short" | "ponytail":
            head.curve([*_CAP, *choose(generator, _FRINGES)], color)
            _draw_shine(head, color)
        case "bun":
            head.curve([*_CAP, *_FRINGES[1]], color)
            _draw_shine(head, color)
        case "spiky":
            _draw_spikes(head, color, generator)
        case "mohawk":
            _draw_mohawk(head, color, generator)
        case "long" | "braids":
            head.curve([*_CAP, *choose(generator, (_PARTED, _FRINGES[2]))], color)
            _draw_shine(head, color)
        case "bob":
            head.curve([*_CAP, *_STRAIGHT], color)
            _draw_shine(head, color)
        case "curly":
            for angle in np.linspace(1.0, 2.0, 9):
                around = (0.92 * np.cos(angle * np.pi), -0.1 + 0.9 * np.sin(angle * np.pi))
                head.circle(around, generator.uniform(0.27, 0.35), color)
            for x in (-0.5, 0.0, 0.5):
                head.circle((x, -0.8), 0.36, color)


def draw_hair_over_clothes(head: Surface, style: str, color: Color) -> None:
    """Braids hang over the shoulders, sides of long hair beside the face."""
    if style == "long":
        for side in (-1, 1):
            head.curve(
                [(side * 0.98, -0.4), (side * 1.26, 0.2), (side * 1.3, 1.2), (side * 1.06, 1.5), (side * 0.96, 0.6)],
                color,
            )
    if style == "bob":
        for side in (-1, 1):
            head.curve([(side * 0.9, -0.4), (side * 1.24, 0.0), (side * 1.22, 0.72), (side * 0.92, 0.66)], color)
    if style == "braids":
        for side in (-1, 1):
            for number, y in enumerate(np.linspace(0.3, 1.75, 6)):
                shade = darker(color, 0.16) if number % 2 else color
                head.ellipse((side * (1.1 + 0.02 * number), y), (0.23, 0.2), shade)
            head.ellipse((side * 1.22, 2.0), (0.15, 0.16), (200, 60, 60))


def _draw_mane(head: Surface, color: Color, *, length: float) -> None:
    head.curve(
        [
            (0, -1.2),
            (0.85, -1.0),
            (1.24, -0.2),
            (1.34, length * 0.7),
            (1.2, length),
            (0, length + 0.06),
            (-1.2, length),
            (-1.34, length * 0.7),
            (-1.24, -0.2),
            (-0.85, -1.0),
        ],
        color,
    )


def _draw_shine(head: Surface, color: Color) -> None:
    head.curve([(-0.62, -0.82), (-0.2, -1.0), (0.1, -0.98), (-0.2, -0.86)], lighter(color, 0.22))


def _draw_spikes(head: Surface, color: Color, generator: np.random.Generator) -> None:
    count = int(generator.integers(6, 9))
    outline: list[tuple[float, float]] = [(-1.04, 0.15)]
    for number, angle in enumerate(np.linspace(1.02, 1.98, 2 * count + 1) * np.pi):
        radius = generator.uniform(1.5, 1.78) if number % 2 else 1.12
        outline.append((radius * np.cos(angle), radius * np.sin(angle)))
    fringe = [(x, -0.62 + 0.34 * (number % 2)) for number, x in enumerate(np.linspace(0.8, -0.8, 9))]
    head.polygon([*outline, (1.04, 0.15), (0.88, -0.2), *fringe, (-0.88, -0.2)], color)
    _draw_shine(head, color)


def _draw_mohawk(head: Surface, color: Color, generator: np.random.Generator) -> None:
    width, height = generator.uniform(0.3, 0.4), generator.uniform(1.65, 1.95)
    head.curve([(-0.86, -0.55), (-0.5, -0.94), (0, -1.08), (0.5, -0.94), (0.86, -0.55), (0, -0.86)], (140, 118, 106))
    head.curve(
        [
            (-width, -0.55),
            (-width * 1.1, -1.0),
            (-width * 1.15, -height * 0.85),
            (0, -height),
            (width * 1.15, -height * 0.85),
            (width * 1.1, -1.0),
            (width, -0.55),
            (0, -0.42),
        ],
        color,
    )
    for x in (-0.5, 0.0, 0.5):
        head.polygon(
            [
                (width * (x - 0.6), -height * 0.85),
                (width * 1.5 * x, -height * 1.12),
                (width * (x + 0.6), -height * 0.85),
            ],
            color,
        )
    head.stroke([(0, -0.6), (0, -height * 0.85)], 0.07, darker(color, 0.25))
