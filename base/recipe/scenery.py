"""Backgrounds: a plain colour or a simple scene, by day, at sunset or at night."""

from dataclasses import dataclass

import numpy as np

from recipe.drawing import (
    PLAIN_COLORS,
    Color,
    Surface,
    chance,
    choose,
    choose_weighted,
    darker,
    jittered,
    lighter,
    mixed,
    with_article,
)

SCENES: dict[str, float] = {
    "sky": 1.2,
    "sunset": 0.6,
    "night": 1.2,
    "forest": 1.5,
    "mountain": 1.2,
    "village": 1.3,
    "field": 1,
    "sea": 1,
    "snow": 0.8,
    "room": 1.2,
    "fire": 0.5,
}
_SETTINGS: dict[str, tuple[str, ...]] = {
    "sky": ("under a blue sky", "in front of a blue sky with clouds"),
    "sunset": ("at sunset", "in front of a sunset"),
    "night": ("at night", "under the moon and stars", "in front of a night sky"),
    "forest": ("in a forest", "in front of trees", "in the woods"),
    "mountain": ("in front of a mountain", "in the mountains"),
    "village": ("in a village", "in front of houses"),
    "field": ("in a field", "in a green field"),
    "sea": ("by the sea", "in front of the sea"),
    "snow": ("in the snow", "in front of snow"),
    "room": ("in a room", "inside a house"),
    "fire": ("in front of a fire", "in front of flames"),
}
_OUTDOORS = ("forest", "mountain", "village", "field", "sea", "snow")
_SKIES: dict[str, tuple[Color, Color]] = {
    "day": ((120, 184, 240), (206, 232, 250)),
    "sunset": ((238, 110, 70), (252, 206, 120)),
    "night": ((22, 28, 66), (54, 62, 112)),
}
_NIGHT: Color = (22, 28, 66)


@dataclass(frozen=True)
class Background:
    """A scene with its time of day, or the scene 'plain' with its colour's name; 'none' where one does not apply."""

    scene: str
    color: str
    time: str

    @property
    def words(self) -> str:
        """The background as an attribute: its colour if it is plain, otherwise the scene."""
        return self.color if self.scene == "plain" else self.scene


def sample_background(generator: np.random.Generator, *, plain_share: float) -> Background:
    """A plain colour with the given probability, otherwise one of the scenes."""
    if chance(generator, plain_share):
        return Background("plain", choose(generator, list(PLAIN_COLORS)), "none")
    scene = choose_weighted(generator, SCENES)
    if scene in _OUTDOORS:
        return Background(scene, "none", choose_weighted(generator, {"day": 5, "sunset": 1.2, "night": 2.5}))
    times = {"sky": "day", "sunset": "sunset", "night": "night"}
    return Background(scene, "none", times.get(scene, "none"))


def setting_words(generator: np.random.Generator, background: Background) -> str:
    """A phrase that places a person before the background, such as 'in a forest at night'."""
    if background.scene == "plain":
        color = with_article(background.color)
        return choose(
            generator,
            (f"on {color} background", f"in front of {color} background", f"on a plain {background.color} background"),
        )
    phrase = choose(generator, _SETTINGS[background.scene])
    if background.scene == "field" and background.time != "day":
        phrase = "in a field"
    if background.scene in _OUTDOORS and background.time != "day":
        return f"{phrase} at {background.time}"
    return phrase


def draw_background(surface: Surface, background: Background, generator: np.random.Generator) -> None:
    """Fill the whole surface."""
    match background.scene:
        case "plain":
            _draw_plain(surface, jittered(generator, PLAIN_COLORS[background.color], 6), generator)
        case "room":
            _draw_room(surface, generator)
        case "fire":
            _draw_fire(surface, generator)
        case scene:
            _draw_sky(surface, background.time, generator)
            _draw_ground(surface, scene, background.time, generator)


def _draw_plain(surface: Surface, color: Color, generator: np.random.Generator) -> None:
    surface.box(0, 0, 64, 64, color)
    if chance(generator, 0.4):
        surface.circle((32 + generator.normal(0, 4), 32), generator.uniform(22, 32), lighter(color, 0.12))


def _draw_gradient(surface: Surface, top: Color, bottom: Color) -> None:
    for band in range(16):
        surface.box(0, band * 4, 64, 64, mixed(top, bottom, band / 15))


def _draw_sky(surface: Surface, time: str, generator: np.random.Generator) -> None:
    top, bottom = (jittered(generator, color, 5) for color in _SKIES[time])
    _draw_gradient(surface, top, bottom)
    x, y = choose(generator, (10.0, 54.0)) + generator.normal(0, 2), generator.uniform(8, 14)
    match time:
        case "day":
            _draw_clouds(surface, generator)
        case "sunset":
            surface.circle((x, y + generator.uniform(4, 18)), generator.uniform(7, 10), (255, 238, 150))
        case _:
            for star_x, star_y in generator.uniform(1, 63, (14, 2)):
                surface.circle((star_x, star_y * 0.7), generator.uniform(0.5, 0.9), (250, 246, 214))
            surface.circle((x, y), 6.5, (250, 244, 196))
            if chance(generator, 0.5):
                surface.circle((x + 3, y - 1.5), 5.5, top)


def _draw_clouds(surface: Surface, generator: np.random.Generator) -> None:
    for x in (generator.uniform(2, 18), generator.uniform(44, 62)):
        y = generator.uniform(6, 24)
        for shift, radius in ((-5, 3.0), (0, 4.6), (5, 3.4)):
            surface.ellipse((x + shift, y), (radius * 1.3, radius), (250, 252, 255))


def _draw_ground(surface: Surface, scene: str, time: str, generator: np.random.Generator) -> None:
    def lit(color: Color) -> Color:
        shades: dict[str, tuple[Color, float]] = {
            "day": (color, 0.0),
            "sunset": ((200, 80, 50), 0.25),
            "night": (_NIGHT, 0.5),
        }
        light, share = shades[time]
        return jittered(generator, mixed(color, light, share), 5)

    match scene:
        case "forest":
            _draw_forest(surface, lit((52, 122, 60)), lit((104, 72, 46)), generator)
        case "mountain":
            _draw_mountain(surface, lit((112, 116, 134)), lit((244, 246, 250)), generator)
        case "village":
            _draw_village(
                surface,
                [lit(c) for c in ((192, 84, 60), (226, 204, 164), (136, 172, 96), (120, 78, 50))],
                (255, 224, 110) if time == "night" else lit((120, 160, 190)),
                generator,
            )
        case "field":
            _draw_hills(surface, lit((146, 196, 84)), lit((104, 168, 70)), generator)
        case "sea":
            _draw_sea(surface, lit((40, 112, 186)), lit((232, 212, 160)), generator)
        case "snow":
            _draw_hills(surface, lit((244, 248, 252)), lit((218, 230, 242)), generator)
            for x, y in generator.uniform(0, 64, (26, 2)):
                surface.circle((x, y), generator.uniform(0.7, 1.3), (255, 255, 255))


def _draw_forest(surface: Surface, leaves: Color, trunk: Color, generator: np.random.Generator) -> None:
    surface.box(0, 46, 64, 64, darker(leaves, 0.25))
    round_trees = chance(generator, 0.5)
    for number, x in enumerate(np.linspace(0, 64, 7) + generator.normal(0, 2, 7)):
        top = generator.uniform(2, 16)
        color = mixed(leaves, (30, 70, 40), 0.3 * (number % 2))
        surface.box(x - 1.8, 30, x + 1.8, 54, trunk)
        if round_trees:
            surface.ellipse((x, top + 15), (8, 14), color)
        else:
            for level in (18, 8, 0):
                surface.polygon([(x, top + level), (x - 9, top + level + 18), (x + 9, top + level + 18)], color)


def _draw_mountain(surface: Surface, rock: Color, snow: Color, generator: np.random.Generator) -> None:
    peak_x, peak_y = generator.uniform(8, 22), generator.uniform(6, 14)
    for x, y, color in ((peak_x + 36, peak_y + 6, darker(rock, 0.15)), (peak_x, peak_y, rock)):
        surface.polygon([(x, y), (x - 34, 60), (x + 34, 60)], color)
        surface.polygon(
            [(x, y), (x - 8, y + 11), (x - 3, y + 9), (x + 1, y + 13), (x + 4, y + 9), (x + 8, y + 11)], snow
        )
    surface.box(0, 54, 64, 64, mixed(rock, (70, 120, 70), 0.6))


def _draw_village(surface: Surface, colors: list[Color], window: Color, generator: np.random.Generator) -> None:
    roof, wall, grass, door = colors
    surface.box(0, 50, 64, 64, grass)
    for x in (generator.uniform(2, 10), generator.uniform(54, 62), generator.uniform(28, 36)):
        top = generator.uniform(20, 30)
        surface.box(x - 9, top, x + 9, 54, wall)
        surface.polygon([(x - 12, top + 1), (x, top - 12), (x + 12, top + 1)], roof)
        for window_x in (x - 4.5, x + 4.5):
            surface.box(window_x - 2.2, top + 5, window_x + 2.2, top + 10, window)
        surface.box(x - 2.5, 44, x + 2.5, 54, door)


def _draw_hills(surface: Surface, near: Color, far: Color, generator: np.random.Generator) -> None:
    height = generator.uniform(28, 38)
    surface.ellipse((generator.uniform(0, 64), height + 34), (52, 36), far)
    surface.ellipse((generator.uniform(0, 64), height + 44), (60, 38), near)
    surface.box(0, 52, 64, 64, near)


def _draw_sea(surface: Surface, water: Color, sand: Color, generator: np.random.Generator) -> None:
    horizon = generator.uniform(26, 36)
    surface.box(0, horizon, 64, 64, water)
    for x, y in generator.uniform((0, horizon + 2), (60, 54), (9, 2)):
        surface.ellipse((x + 2, y), (4, 0.6), lighter(water, 0.4))
    surface.box(0, 56, 64, 64, sand)


def _draw_room(surface: Surface, generator: np.random.Generator) -> None:
    wall = jittered(generator, choose(generator, ((226, 208, 178), (198, 214, 206), (214, 196, 206))), 6)
    surface.box(0, 0, 64, 64, wall)
    surface.box(0, 52, 64, 64, (148, 104, 68))
    surface.box(0, 50.5, 64, 52, lighter(wall, 0.5))
    x = choose(generator, (10.0, 54.0))
    surface.box(x - 8, 8, x + 8, 28, (122, 82, 52))
    surface.box(x - 6.5, 9.5, x + 6.5, 26.5, (168, 214, 244))
    surface.box(x - 0.7, 8, x + 0.7, 28, (122, 82, 52))
    surface.box(x - 8, 17.3, x + 8, 18.7, (122, 82, 52))


def _draw_fire(surface: Surface, generator: np.random.Generator) -> None:
    _draw_gradient(surface, (58, 24, 26), (150, 44, 24))
    for color, base, reach in (((222, 62, 30), 46, 38), ((248, 140, 36), 52, 32), ((254, 214, 80), 58, 24)):
        edge: list[tuple[float, float]] = [(0, 64)]
        for number, x in enumerate(np.linspace(0, 64, 13)):
            edge.append((x, base - reach * generator.uniform(0.6, 1.0) if number % 2 else base))
        surface.polygon([*edge, (64, 64)], jittered(generator, color, 6))
