"""Shoulders, clothes and items, in the figure's frame: 64 units across, head at (32, 25), shoulders at y = 45."""

import numpy as np

from recipe.drawing import Color, Surface, chance, choose, darker, jittered, lighter

GARMENTS: tuple[str, ...] = ("shirt", "robe", "tunic", "dress", "coat", "vest", "cape")
ITEMS: tuple[str, ...] = (
    "sword",
    "staff",
    "lantern",
    "basket",
    "book",
    "flower",
    "umbrella",
    "axe",
    "rolled paper",
)
_STEEL: Color = (196, 204, 214)
_WOOD: Color = (134, 90, 52)
_CREAM: Color = (240, 232, 212)
_FLOOR = 90.0
_HAND = (50.5, 56.0)


def draw_body(figure: Surface, garment: str, color: Color, skin: Color, *, half_width: float) -> None:
    """A clothed torso without head is drawn, down past the lower edge."""
    shade = darker(color, 0.2)
    neck = darker(skin, 0.14)
    torso = color
    if garment == "vest":
        torso = _CREAM
    if garment == "dress":
        torso = skin
    if garment == "cape":
        torso = darker(_CREAM, 0.15)
    _draw_torso(figure, torso, half_width)
    figure.box(28, 34, 36, 46, neck)
    match garment:
        case "shirt":
            _draw_shirt(figure, color, shade, neck)
        case "robe":
            _draw_robe(figure, color, neck)
        case "tunic":
            _draw_tunic(figure, shade, neck)
        case "dress":
            _draw_dress(figure, color, shade)
        case "coat":
            _draw_coat(figure, color, shade)
        case "vest":
            _draw_vest(figure, color, shade, neck)
        case "cape":
            _draw_cape(figure, color, shade, half_width)
    if garment not in ("cape", "dress"):
        for side in (-1, 1):
            arm = 32 + side * (half_width - 5.5)
            figure.stroke([(arm, 52), (arm + side * 0.6, _FLOOR)], 0.9, darker(torso, 0.22))


def _draw_torso(figure: Surface, color: Color, half_width: float) -> None:
    figure.curve(
        [
            (32 - half_width, 50),
            (32 - half_width + 4, 45.5),
            (27, 42),
            (37, 42),
            (32 + half_width - 4, 45.5),
            (32 + half_width, 50),
            (32 + half_width + 1.5, 66),
            (32 + half_width, _FLOOR),
            (32 - half_width, _FLOOR),
            (32 - half_width - 1.5, 66),
        ],
        color,
    )


def _draw_shirt(figure: Surface, color: Color, shade: Color, skin: Color) -> None:
    figure.ellipse((32, 43), (6, 4.2), shade)
    figure.ellipse((32, 42), (4.8, 3.6), skin)
    for y in (51, 56, 61):
        figure.circle((32, y), 0.9, lighter(color, 0.6))


def _draw_robe(figure: Surface, color: Color, skin: Color) -> None:
    trim = lighter(color, 0.62)
    figure.polygon([(27, 41), (37, 41), (32, 51)], skin)
    figure.stroke([(38, 41), (32.5, 51)], 3.2, darker(trim, 0.12))
    figure.stroke([(26, 41), (38.5, 62), (42, 70)], 3.2, trim)
    figure.box(18, 62, 46, 67, darker(color, 0.4))


def _draw_tunic(figure: Surface, shade: Color, skin: Color) -> None:
    figure.polygon([(27.2, 41), (36.8, 41), (33, 53), (31, 53)], shade)
    figure.polygon([(28.4, 41), (35.6, 41), (32, 51)], skin)
    for y in (46, 49):
        figure.stroke([(30, y), (34, y + 1.5)], 0.8, _CREAM)
    figure.box(17, 59, 47, 63, _WOOD)
    figure.box(30, 58.4, 34, 63.6, (236, 200, 90))


def _draw_dress(figure: Surface, color: Color, shade: Color) -> None:
    figure.polygon(
        [(20, 51), (26, 50), (32, 52), (38, 50), (44, 51), (43, 61), (52, _FLOOR), (12, _FLOOR), (21, 61)], color
    )
    for side in (-1, 1):
        figure.curve([(32 + side * 9, 43), (32 + side * 15, 45), (32 + side * 17, 53), (32 + side * 11, 53)], color)
        figure.stroke([(32 + side * 8, 43.5), (32 + side * 8, 53)], 3.2, color)
    figure.box(21, 59, 43, 61.5, lighter(color, 0.55))
    figure.circle((32, 54), 1.2, lighter(color, 0.55))
    figure.stroke([(27, 62), (25, _FLOOR)], 0.9, shade)


def _draw_coat(figure: Surface, color: Color, shade: Color) -> None:
    figure.polygon([(27, 41), (37, 41), (35.5, _FLOOR), (28.5, _FLOOR)], _CREAM)
    for side in (-1, 1):
        figure.polygon([(32 + side * 4, 39), (32 + side * 9, 43), (32 + side * 9.5, 52), (32 + side * 3, 60)], shade)
        figure.polygon([(32 + side * 4.5, 38.5), (32 + side * 9, 43.5), (32 + side * 5, 48)], lighter(color, 0.25))
        for y in (57, 62):
            figure.circle((32 + side * 6.5, y), 1.0, (236, 206, 110))


def _draw_vest(figure: Surface, color: Color, shade: Color, skin: Color) -> None:
    figure.polygon([(28, 41), (36, 41), (32, 47)], skin)
    for side in (-1, 1):
        figure.curve(
            [
                (32 + side * 5.5, 42),
                (32 + side * 12, 44),
                (32 + side * 12.5, 53),
                (32 + side * 13, 68),
                (32 + side * 12, _FLOOR),
                (32 + side * 1, _FLOOR),
                (32 + side * 0.5, 60),
                (32 + side * 1.5, 54),
            ],
            color,
        )
    figure.stroke([(32, 55), (32, _FLOOR)], 1.0, shade)
    for y in (57, 61):
        figure.circle((34, y), 0.9, (240, 214, 120))


def _draw_cape(figure: Surface, color: Color, shade: Color, half_width: float) -> None:
    for side in (-1, 1):
        edge = 32 + side * (half_width + 4)
        figure.curve(
            [
                (32 + side * 2, 42.5),
                (32 + side * (half_width - 4), 43.5),
                (edge, 52),
                (edge + side * 2, 70),
                (edge, _FLOOR),
                (32 + side * 9, _FLOOR),
                (32 + side * 6, 62),
                (32 + side * 1.5, 48),
            ],
            color,
        )
        figure.stroke([(32 + side * 9, 48), (32 + side * 13, 70)], 0.9, shade)
    figure.curve([(23, 42.5), (32, 39.5), (41, 42.5), (39, 46.5), (32, 48), (25, 46.5)], shade)
    figure.circle((32, 47.5), 1.9, (242, 206, 92))


def draw_scarf(figure: Surface, color: Color) -> None:
    """A scarf is wound around the neck, one end hanging down."""
    figure.polygon([(35, 43), (41, 44), (43, 58), (37, 59)], darker(color, 0.18))
    figure.stroke([(37.4, 56), (42.6, 55)], 1.2, lighter(color, 0.5))
    figure.curve([(20.5, 41), (26, 38.5), (32, 40), (38, 38.5), (43.5, 41), (42, 46), (32, 48.5), (22, 46)], color)
    figure.stroke([(23.5, 42.5), (32, 45), (40.5, 42.5)], 1.0, darker(color, 0.22))


def draw_umbrella_behind(figure: Surface, generator: np.random.Generator) -> None:
    """The open dome and the pole of an umbrella are drawn; the figure belongs in front of them."""
    color = jittered(generator, choose(generator, ((206, 60, 60), (64, 110, 200), (244, 210, 90), (120, 80, 170))))
    figure.stroke([(50.5, 8), (50.5, 60)], 1.7, _WOOD)
    dome = [(40 + 31 * np.cos(a), 12 + 17 * np.sin(a)) for a in np.linspace(np.pi, 2 * np.pi, 20)]
    scallops = [(x, 15 if number % 2 else 11) for number, x in enumerate(np.linspace(71, 9, 9))]
    figure.polygon([*dome, *scallops], color)
    figure.polygon([(40, -5), (30, 12), (50, 12)], lighter(color, 0.35))


def draw_item(figure: Surface, item: str, sleeve: Color, skin: Color, generator: np.random.Generator) -> None:
    """A raised arm holds the item before the body."""
    x, y = _HAND
    if item not in ("basket", "book"):
        figure.stroke([(46, 68), (x, y + 1)], 6.5, darker(sleeve, 0.1))
    match item:
        case "sword":
            _draw_sword(figure, x, y)
        case "staff":
            figure.stroke([(x, 6), (x, _FLOOR)], 2.4, _WOOD)
            figure.circle(
                (x, 7), 3.4, jittered(generator, choose(generator, ((90, 170, 220), (176, 118, 66), (120, 200, 120))))
            )
        case "lantern":
            _draw_lantern(figure, x, y)
        case "basket":
            _draw_basket(figure, generator)
        case "book":
            _draw_book(figure, skin, generator)
        case "flower":
            _draw_flower(figure, x, y, generator)
        case "axe":
            figure.stroke([(x, 18), (x, _FLOOR)], 2.4, _WOOD)
            figure.curve(
                [(x + 0.5, 19), (x + 4, 18), (x + 10, 14), (x + 11, 22), (x + 9.5, 30), (x + 4, 26), (x + 0.5, 26)],
                _STEEL,
            )
            figure.polygon([(x - 3, 20), (x + 1, 20), (x + 1, 25), (x - 3, 25)], darker(_STEEL, 0.3))
        case "rolled paper":
            _draw_rolled_paper(figure, x, y, generator)
    if item not in ("basket", "book"):
        figure.circle((x, y), 3.1, skin)


def _draw_sword(figure: Surface, x: float, y: float) -> None:
    figure.polygon([(x - 1.9, y - 6), (x - 1.9, 16), (x, 10), (x + 1.9, 16), (x + 1.9, y - 6)], _STEEL)
    figure.polygon([(x, 10), (x + 1.9, 16), (x + 1.9, y - 6), (x, y - 6)], lighter(_STEEL, 0.6))
    figure.box(x - 5, y - 7, x + 5, y - 4.4, (220, 176, 70))
    figure.stroke([(x, y - 5), (x, y + 6)], 2.2, _WOOD)
    figure.circle((x, y + 6.5), 1.7, (220, 176, 70))


def _draw_lantern(figure: Surface, x: float, y: float) -> None:
    figure.stroke([(x, y), (x, 28), (x + 5, 28), (x + 5, 32)], 1.4, _WOOD)
    figure.box(x + 2, 31, x + 8, 33.5, (84, 56, 44))
    figure.curve(
        [(x + 1.4, 34), (x + 8.6, 34), (x + 10.5, 40), (x + 8.6, 46), (x + 1.4, 46), (x - 0.5, 40)], (250, 170, 60)
    )
    figure.ellipse((x + 5, 40), (3.4, 4.4), (255, 240, 160))
    figure.box(x + 2, 46, x + 8, 48, (84, 56, 44))


def _draw_basket(figure: Surface, generator: np.random.Generator) -> None:
    straw = (206, 158, 88)
    figure.arc((32, 57), (12, 10), np.pi, 2 * np.pi, 1.9, darker(straw, 0.25))
    fruit = choose(generator, ((212, 48, 44), (246, 160, 50), (130, 190, 70)))
    for x in (23, 29, 35, 41):
        figure.circle((x, 55.5), 3.5, jittered(generator, fruit, 8))
    figure.polygon([(17, 56), (47, 56), (43.5, 72), (20.5, 72)], straw)
    for y in (59.5, 63.5):
        figure.stroke([(18, y), (46, y)], 1.0, darker(straw, 0.25))


def _draw_book(figure: Surface, skin: Color, generator: np.random.Generator) -> None:
    cover = jittered(generator, choose(generator, ((160, 50, 50), (50, 90, 150), (60, 120, 80), (120, 78, 46))))
    figure.polygon([(19, 50), (32, 52.5), (45, 50), (45, 65), (32, 67.5), (19, 65)], cover)
    figure.polygon([(20.5, 48.5), (32, 51), (32, 64), (20.5, 62)], (250, 246, 234))
    figure.polygon([(43.5, 48.5), (32, 51), (32, 64), (43.5, 62)], (232, 226, 210))
    for y in (52.5, 55.5, 58.5):
        figure.stroke([(22.5, y), (30, y + 1.4)], 0.8, (140, 134, 128))
        figure.stroke([(41.5, y), (34, y + 1.4)], 0.8, (140, 134, 128))
    for x in (19, 45):
        figure.circle((x, 59), 2.7, skin)


def _draw_flower(figure: Surface, x: float, y: float, generator: np.random.Generator) -> None:
    petals = jittered(generator, choose(generator, ((236, 70, 90), (250, 150, 190), (255, 250, 245), (150, 100, 210))))
    figure.stroke([(x, y + 4), (x + 0.5, 34)], 1.5, (74, 142, 66))
    figure.curve([(x, 47), (x + 5, 43), (x + 7, 44), (x + 4, 48)], (88, 164, 76))
    for angle in np.linspace(0, 2 * np.pi, 6)[:5] + generator.uniform(0, 1):
        figure.circle((x + 0.5 + 4 * np.cos(angle), 33 + 4 * np.sin(angle)), 3.1, petals)
    figure.circle((x + 0.5, 33), 2.5, (250, 208, 70))


def _draw_rolled_paper(figure: Surface, x: float, y: float, generator: np.random.Generator) -> None:
    ribbon = choose(generator, ((196, 60, 56), (60, 100, 180), (70, 140, 80)))
    roll = figure.within((x, y - 4), (1, 1), generator.uniform(0.15, 0.5) * (1 if chance(generator, 0.5) else -1))
    roll.box(-4, -14, 4, 13, (246, 236, 206))
    roll.box(2, -14, 4, 13, (224, 208, 168))
    roll.ellipse((0, -14), (4, 1.7), (206, 184, 140))
    roll.ellipse((0, -14), (2, 0.8), (150, 126, 88))
    roll.box(-4, -5, 4, -2, ribbon)
