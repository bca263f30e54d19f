"""The vocabulary of the shinobi pictures, and the sampling of one character from it."""

from dataclasses import asdict, dataclass, replace

from numpy.random import Generator

from naruto_add.data.shinobi.palette import CLOTH, HAIR, PLAIN

NONE = "none"

SUBJECTS = ("man", "woman", "boy", "girl", "old man", "ninja")
HAIR_STYLES = ("spiky", "long", "short", "mohawk", "ponytail", "twin tails", "buns", "bald")
HAIR_COLORS = (*HAIR, NONE)
BAND_COLORS = ("blue", "black", "red", "green")
HEADWEAR = (NONE, *(f"{color} forehead protector" for color in BAND_COLORS))
FACE_MARKS = (NONE, "whisker marks", "scar")
MASKS = (NONE, "mask")
GARMENTS = ("cloak", "cloak with red clouds", "vest", "jacket", "robe", "armor", "scarf")
GARMENT_COLORS = tuple(CLOTH)
ITEMS = (NONE, "kunai", "sword", "scroll", "shuriken", "fan", "staff")
SCENES = ("village", "forest", "sunset", "night", "mountain", "waterfall", "desert", "snow", "cherry blossoms")
BACKGROUNDS = (*SCENES, *(f"{color} background" for color in PLAIN))
EXPRESSIONS = ("smiling", "serious", "angry", "shouting", "closed eyes")
POSES = ("front", "left", "right", "meditating")

VOCABULARY: dict[str, tuple[str, ...]] = {
    "subject": SUBJECTS,
    "hair_style": HAIR_STYLES,
    "hair_color": HAIR_COLORS,
    "headwear": HEADWEAR,
    "face_mark": FACE_MARKS,
    "mask": MASKS,
    "garment": GARMENTS,
    "garment_color": GARMENT_COLORS,
    "item": ITEMS,
    "background": BACKGROUNDS,
    "expression": EXPRESSIONS,
    "pose": POSES,
}

_STYLE_WEIGHTS: dict[str, dict[str, float]] = {
    "man": {"spiky": 5, "short": 3, "long": 2, "mohawk": 2, "ponytail": 2, "bald": 0.5},
    "woman": {"long": 5, "ponytail": 3, "short": 2, "twin tails": 2, "buns": 2},
    "boy": {"spiky": 6, "short": 4, "mohawk": 2, "ponytail": 1},
    "girl": {"twin tails": 4, "long": 3, "buns": 3, "short": 2, "ponytail": 2},
    "old man": {"long": 3, "short": 2, "ponytail": 2, "spiky": 2, "bald": 1},
    "ninja": {"spiky": 5, "short": 3, "long": 2, "ponytail": 3, "mohawk": 1},
}
# The backgrounds on which hair of this colour cannot be told apart.
_TOO_SIMILAR: dict[str, tuple[str, ...]] = {
    "green": ("forest", "green background"),
    "white": ("white background", "snow"),
    "grey": ("mountain", "waterfall"),
    "pink": ("cherry blossoms",),
    "black": ("night",),
    "blond": ("yellow background", "desert"),
    "orange": ("sunset", "desert"),
    "red": ("red background",),
    "blue": ("blue background", "night"),
    "purple": ("purple background",),
}


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What a picture shows. Each field is one of its `VOCABULARY`. Raises ValueError for any other word."""

    subject: str
    hair_style: str
    hair_color: str
    headwear: str
    face_mark: str
    mask: str
    garment: str
    garment_color: str
    item: str
    background: str
    expression: str
    pose: str

    def __post_init__(self) -> None:
        for column, value in asdict(self).items():
            if value not in VOCABULARY[column]:
                raise ValueError(f"{column}: {value!r} is not one of {', '.join(VOCABULARY[column])}")


def sample_attributes(generator: Generator) -> Attributes:
    """A random character whose attributes do not contradict each other."""
    subject = _pick(generator, SUBJECTS)
    style = _weighted(generator, _STYLE_WEIGHTS[subject])
    color = _hair_color(generator, subject, style)
    garment = _pick(generator, GARMENTS)
    drawn = Attributes(
        subject=subject,
        hair_style=style,
        hair_color=color,
        headwear=_pick(generator, HEADWEAR[1:]) if generator.random() < 0.45 else NONE,
        face_mark=_weighted(generator, {NONE: 7, "whisker marks": 2, "scar": 1.5}),
        mask=_weighted(generator, {NONE: 6, "mask": 1}),
        garment=garment,
        garment_color="black" if garment == "cloak with red clouds" else _pick(generator, GARMENT_COLORS),
        item=_pick(generator, ITEMS[1:]) if generator.random() < 0.5 else NONE,
        background=_background(generator, color),
        expression=_weighted(generator, {"smiling": 4, "serious": 3, "angry": 2, "shouting": 2, "closed eyes": 0.7}),
        pose=_weighted(generator, {"front": 5, "left": 2, "right": 2, "meditating": 1}),
    )
    return _without_contradictions(drawn)


def _without_contradictions(drawn: Attributes) -> Attributes:
    """The same character, but a ninja wears a forehead protector or a mask, covered features have their default, and
    a meditating figure holds nothing and has closed eyes.
    """
    if drawn.subject == "ninja" and drawn.headwear == NONE:
        drawn = replace(drawn, mask="mask")
    if (drawn.mask != NONE or drawn.subject == "old man") and drawn.face_mark == "whisker marks":
        drawn = replace(drawn, face_mark=NONE)
    if drawn.mask != NONE and drawn.expression in ("smiling", "shouting"):
        drawn = replace(drawn, expression="serious")
    if drawn.pose == "meditating":
        drawn = replace(drawn, item=NONE, expression="closed eyes")
    return drawn


def _hair_color(generator: Generator, subject: str, style: str) -> str:
    if style == "bald":
        return NONE
    if subject == "old man":
        return _weighted(generator, {"white": 4, "grey": 4, "black": 1, "brown": 1})
    return _pick(generator, tuple(HAIR))


def _background(generator: Generator, hair_color: str) -> str:
    choices = SCENES if generator.random() < 0.72 else tuple(f"{color} background" for color in PLAIN)
    return _pick(generator, tuple(each for each in choices if each not in _TOO_SIMILAR.get(hair_color, ())))


def _pick(generator: Generator, values: tuple[str, ...]) -> str:
    return values[generator.integers(len(values))]


def _weighted(generator: Generator, weights: dict[str, float]) -> str:
    total = sum(weights.values())
    place = generator.choice(len(weights), p=[weight / total for weight in weights.values()])
    return tuple(weights)[place]
