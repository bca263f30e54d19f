"""Abstract line art and shapes, from which the autoencoder learns lines, edges, flat fills and gradients."""

import numpy as np

from recipe.drawing import (
    Color,
    Drawing,
    Surface,
    chance,
    choose,
    darker,
    finished,
    mixed,
    new_surface,
    picture_generator,
)

CAPTION = "an abstract drawing"
GROUNDS: tuple[str, ...] = ("flat", "gradient", "stripes", "checker")
MARKS: tuple[str, ...] = ("lines", "curves", "ellipses", "polygons", "outlined", "stars", "hatching", "rings", "dots")
_FAMILY = 3
_INK: Color = (18, 16, 22)


def draw_doodle(index: int, *, seed: int, size_px: int) -> Drawing:
    """The abstract drawing of (seed, index): a background and one to four groups of marks."""
    generator = picture_generator(seed, index, family=_FAMILY)
    palette = _sample_palette(generator)
    surface = new_surface(size_px, palette[0])
    ground = choose(generator, GROUNDS)
    marks = [choose(generator, MARKS) for _ in range(int(generator.integers(1, 5)))]
    _draw_ground(surface, ground, palette, generator)
    for mark in marks:
        _draw_marks(surface, mark, palette, generator)
    return Drawing(finished(surface), CAPTION, {"ground": ground, "marks": " ".join(marks)})


def _sample_palette(generator: np.random.Generator) -> list[Color]:
    """Six colours: random ones, pastel, dark, of one hue, or greys."""
    kind = choose(generator, ("any", "any", "pastel", "dark", "one hue", "grey"))
    values = generator.uniform(0, 255, (6, 3))
    match kind:
        case "pastel":
            values = 150 + values * 0.41
        case "dark":
            values = values * 0.5
        case "one hue":
            values = values[:1] * generator.uniform(0.4, 1.6, (6, 1))
        case "grey":
            values = np.repeat(values[:, :1], 3, axis=1)
    return [(red, green, blue) for red, green, blue in np.clip(values, 0, 255).astype(int).tolist()]


def _draw_ground(surface: Surface, ground: str, palette: list[Color], generator: np.random.Generator) -> None:
    turned = surface.within((32, 32), (1, 1), generator.uniform(0, np.pi))
    first, second = palette[0], palette[1]
    step = generator.uniform(3, 14)
    match ground:
        case "gradient":
            for band in range(32):
                turned.box(-46, -46 + band * 2.9, 46, 46, mixed(first, second, band / 31))
        case "stripes":
            for y in np.arange(-46, 46, 2 * step):
                turned.box(-46, y, 46, y + step, second)
        case "checker":
            straight = surface if chance(generator, 0.6) else turned
            for row, y in enumerate(np.arange(-46, 64, step)):
                for x in np.arange(-46 + step * (row % 2), 64, 2 * step):
                    straight.box(x, y, x + step, y + step, second)


def _draw_marks(surface: Surface, mark: str, palette: list[Color], generator: np.random.Generator) -> None:
    for _ in range(int(generator.integers(2, 8))):
        color = choose(generator, palette[2:])
        ink = _INK if chance(generator, 0.7) else darker(color, 0.6)
        width = generator.uniform(0.7, 2.2)
        center = (generator.uniform(0, 64), generator.uniform(0, 64))
        radius = float(generator.gamma(3, 4)) + 2
        shape = surface.within(center, (radius, radius * generator.uniform(0.5, 1)), generator.uniform(0, np.pi))
        _draw_mark(surface, shape, mark, color, ink, width, width / radius, generator)


def _draw_mark(
    surface: Surface,
    shape: Surface,
    mark: str,
    color: Color,
    ink: Color,
    width: float,
    relative: float,
    generator: np.random.Generator,
) -> None:
    match mark:
        case "lines":
            surface.stroke(generator.uniform(-4, 68, (int(generator.integers(2, 5)), 2)), width, ink)
        case "curves":
            start = generator.uniform(0, 2 * np.pi)
            shape.arc((0, 0), (1.5, 1.5), start, start + generator.uniform(1, 4), relative, ink)
        case "ellipses":
            shape.circle((0, 0), 1, color)
        case "polygons":
            shape.polygon(_corners(generator), color)
        case "outlined":
            corners = _corners(generator)
            fill = shape.curve if chance(generator, 0.5) else shape.polygon
            fill(corners, ink)
            fill(corners * max(0.3, 1 - 1.6 * relative), color)
        case "stars":
            angles = np.arange(10) * np.pi / 5
            reach = np.where(np.arange(10) % 2, 0.42, 1.0)
            small = shape.within((0, 0), (0.6, 0.6))
            small.polygon(np.stack([np.cos(angles) * reach, np.sin(angles) * reach], axis=1), color)
        case "hatching":
            for x in np.arange(-1, 1, max(0.12, 3 * relative)):
                shape.stroke([(x, -1), (x + 0.2, 1)], relative * 0.8, ink)
        case "rings":
            shape.arc((0, 0), (1, 1), 0, 2 * np.pi, relative, ink if chance(generator, 0.6) else color)
        case "dots":
            for x, y in generator.normal(0, 1, (6, 2)):
                shape.circle((x, y), generator.uniform(0.05, 0.2), color)


def _corners(generator: np.random.Generator) -> np.ndarray:
    """Three to eight corners around the origin, at distances 0.6 to 1."""
    count = int(generator.integers(3, 9))
    angles = (np.arange(count) + generator.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * generator.uniform(0.6, 1, (count, 1))
