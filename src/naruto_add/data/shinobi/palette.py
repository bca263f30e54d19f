"""The colours of the shinobi pictures, and the functions that derive one colour from another."""

from numpy.random import Generator

Color = tuple[int, int, int]

HAIR: dict[str, Color] = {
    "black": (44, 40, 62),
    "brown": (128, 72, 36),
    "blond": (255, 214, 62),
    "red": (208, 32, 44),
    "orange": (248, 124, 24),
    "white": (242, 244, 252),
    "grey": (142, 148, 164),
    "blue": (44, 104, 226),
    "green": (52, 168, 78),
    "pink": (255, 142, 190),
    "purple": (140, 70, 204),
}
CLOTH: dict[str, Color] = {
    "black": (50, 48, 62),
    "blue": (38, 92, 214),
    "green": (46, 142, 70),
    "orange": (250, 130, 24),
    "purple": (126, 60, 184),
    "red": (206, 36, 42),
    "white": (240, 240, 244),
    "yellow": (250, 206, 46),
}
PLAIN: dict[str, Color] = {
    "blue": (72, 140, 240),
    "green": (98, 196, 104),
    "purple": (158, 108, 224),
    "red": (228, 66, 62),
    "white": (246, 246, 248),
    "yellow": (255, 218, 84),
}
SKIN: tuple[Color, ...] = ((255, 224, 196), (252, 208, 170), (232, 178, 132), (176, 118, 82))
IRIS: tuple[Color, ...] = ((40, 120, 220), (46, 158, 84), (126, 74, 34), (206, 44, 48), (136, 78, 200), (90, 96, 112))
STEEL: Color = (206, 214, 226)
GOLD: Color = (246, 196, 62)
WHITE: Color = (255, 255, 255)
_WARM_SHADOW: Color = (124, 16, 62)
_COLD_SHADOW: Color = (36, 22, 96)


def blend(color: Color, other: Color, share: float) -> Color:
    """The mixture of `share` of `other` and 1 - `share` of `color`."""
    (r, g, b), (to_r, to_g, to_b) = color, other
    return round(r + (to_r - r) * share), round(g + (to_g - g) * share), round(b + (to_b - b) * share)


def darker(color: Color) -> Color:
    """The shadow tone of cel shading: crimson for warm colours, violet for the others."""
    return blend(color, _WARM_SHADOW if color[0] - color[2] > 40 else _COLD_SHADOW, 0.36)


def lighter(color: Color) -> Color:
    """The tone of a highlight on this colour."""
    return blend(color, WHITE, 0.42)


def outlined(color: Color) -> Color:
    """The colour of a shape's outline: much darker but of the same hue, because black lines are hard to learn."""
    return blend(darker(darker(color)), (34, 14, 44), 0.22)


def jittered(color: Color, generator: Generator) -> Color:
    """The colour with each channel changed by at most 9, so that pictures do not share a palette."""
    red, green, blue = (min(255, max(0, c + int(d))) for c, d in zip(color, generator.integers(-9, 10, 3), strict=True))
    return red, green, blue
