"""Captioned portraits from the python_avatars parts, whose every attribute is named, on a simple background."""

from dataclasses import dataclass
from enum import Enum
from io import BytesIO

import numpy as np
import python_avatars as parts
import resvg_py
from PIL import Image

from recipe.avatar_words import avatar_caption
from recipe.drawing import (
    CLOTH_COLORS,
    HAIR_COLORS,
    SKIN_COLORS,
    Color,
    Drawing,
    chance,
    choose,
    finished,
    jittered,
    new_surface,
    picture_generator,
)
from recipe.scenery import Background, draw_background, sample_background

_FAMILY = 2
HAIR_STYLES: dict[str, tuple[str, ...]] = {
    "short": ("CAESAR", "CAESAR_SIDE_PART", "SHORT_FLAT", "SHORT_ROUND", "PIXIE"),
    "short wavy": ("SHORT_WAVED",),
    "short curly": ("SHORT_CURLY",),
    "curly": ("CURLY", "FRO"),
    "long": ("STRAIGHT_1", "STRAIGHT_STRAND", "LONG_NOT_TOO_LONG"),
    "long wavy": ("BIG_HAIR", "CURVY"),
    "bob": ("BOB", "MIA_WALLACE"),
    "bun": ("BUN",),
    "messy": ("SHAGGY", "SHAGGY_MULLET", "MOWGLI"),
    "wild": ("WILD", "EINSTEIN_HAIR"),
    "spiky": ("EVIL_SPIKE", "WILD", "MOWGLI"),
    "mohawk": ("MOHAWK",),
    "dreadlocks": ("DREADS", "TWIST_LONG_HAIR"),
    "braided": ("BRAIDS", "CORNROWS"),
    "quiff": ("QUIFF", "POMPADOUR", "ELVIS"),
    "bald": ("NONE",),
}
HATS: dict[str, tuple[str, ...]] = {
    "hat": ("HAT",),
    "headscarf": ("HIJAB",),
    "turban": ("TURBAN",),
    "helmet": ("GLADIATOR_HELMET",),
    "winter hat": ("WINTER_HAT_2", "WINTER_HAT_3", "WINTER_HAT_4"),
}
GARMENTS: dict[str, tuple[str, ...]] = {
    "hoodie": ("HOODIE",),
    "shirt": ("SHIRT_CREW_NECK", "SHIRT_SCOOP_NECK", "SHIRT_V_NECK"),
    "sweater": ("COLLAR_SWEATER",),
    "overalls": ("OVERALL",),
    "jacket": ("CHEF",),
    "dark blazer": ("BLAZER_SHIRT",),
    "black suit": ("BOND_SUIT", "SHIRT_WICK"),
    "space suit": ("ASTRONAUT_SUIT",),
}
COLORED_GARMENTS: tuple[str, ...] = ("hoodie", "shirt", "sweater", "overalls", "jacket")
EYEWEAR: dict[str, tuple[str, ...]] = {
    "round glasses": ("ROUND",),
    "glasses": ("PRESCRIPTION_2",),
    "eye patch": ("EYEPATCH",),
    "sunglasses": ("SUNGLASSES", "WAYFARERS"),
}
FACIAL_HAIR: dict[str, tuple[str, ...]] = {
    "beard": ("BEARD_MEDIUM", "BEARD_MAGESTIC"),
    "short beard": ("BEARD_LIGHT",),
    "moustache": ("MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM"),
}
EXPRESSIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smiling": (
        ("SMILE", "DEFAULT", "DEFAULT"),
        ("BIG_SMILE", "HAPPY", "RAISED_EXCITED_NATURAL"),
        ("TWINKLE", "DEFAULT", "DEFAULT_NATURAL"),
        ("TWINKLE", "CLOSED", "DEFAULT"),
    ),
    "serious": (("SERIOUS", "DEFAULT", "DEFAULT_NATURAL"), ("SERIOUS", "SIDE", "FLAT_NATURAL")),
    "angry": (("SERIOUS", "DEFAULT", "ANGRY"), ("SAD", "DEFAULT", "ANGRY_NATURAL")),
    "sad": (("SAD", "DEFAULT", "SAD_CONCERNED"), ("SAD", "CLOSED", "SAD_CONCERNED_NATURAL")),
    "surprised": (("DISBELIEF", "SURPRISED", "RAISED_EXCITED"), ("SCREAM_OPEN", "SURPRISED", "RAISED_EXCITED_NATURAL")),
    "winking": (("SMILE", "WINK", "DEFAULT"),),
}


@dataclass(frozen=True)
class Look:
    """Everything about an avatar that a caption can name; 'none' where absent."""

    subject: str
    hair_style: str
    hair_color: str
    headwear: str
    headwear_color: str
    garment: str
    garment_color: str
    eyewear: str
    facial_hair: str
    facial_hair_color: str
    expression: str


def draw_avatar(index: int, *, seed: int, size_px: int) -> Drawing:
    """The avatar of (seed, index), and a caption that names some of its attributes."""
    generator = picture_generator(seed, index, family=_FAMILY)
    look = _sample_look(generator)
    background = _contrasting_background(generator, look)
    surface = new_surface(size_px, (255, 255, 255))
    draw_background(surface, background, generator)
    image = finished(surface, brightness=float(np.clip(generator.normal(1, 0.04), 0.88, 1.08)))
    _compose(image, _svg(look, generator), generator)
    scene = {"background": background.scene, "background_color": background.color, "time": background.time}
    return Drawing(image, avatar_caption(look, background, generator), {**vars(look), **scene})


def _sample_look(generator: np.random.Generator) -> Look:
    covered = chance(generator, 0.2)
    hair_style = "none" if covered else choose(generator, list(HAIR_STYLES))
    hair_color = choose(generator, list(HAIR_COLORS))
    headwear = choose(generator, list(HATS)) if covered else "none"
    garment = choose(generator, COLORED_GARMENTS if chance(generator, 0.8) else list(GARMENTS))
    facial_hair = "none"
    if headwear not in ("headscarf", "helmet") and chance(generator, 0.2):
        facial_hair = choose(generator, list(FACIAL_HAIR))
    return Look(
        subject="person",
        hair_style=hair_style,
        hair_color="none" if hair_style in ("none", "bald") else hair_color,
        headwear=headwear,
        headwear_color=choose(generator, list(CLOTH_COLORS)) if covered else "none",
        garment=garment,
        garment_color=choose(generator, list(CLOTH_COLORS)) if garment in COLORED_GARMENTS else "none",
        eyewear=choose(generator, list(EYEWEAR)) if headwear != "helmet" and chance(generator, 0.3) else "none",
        facial_hair=facial_hair,
        facial_hair_color=hair_color if facial_hair != "none" else "none",
        expression="smiling" if chance(generator, 0.35) else choose(generator, list(EXPRESSIONS)),
    )


def _contrasting_background(generator: np.random.Generator, look: Look) -> Background:
    """A background that, when plain, has neither the hair's nor the garment's colour."""
    while True:
        background = sample_background(generator, plain_share=0.65)
        worn = (look.hair_color, look.garment_color, look.headwear_color)
        if background.color == "none" or background.color not in worn:
            return background


def _svg(look: Look, generator: np.random.Generator) -> str:
    """The look as SVG text on a transparent background. Of parts with the same name, one is chosen at random."""

    def part(kind: type[Enum], options: dict[str, tuple[str, ...]], name: str) -> Enum:
        return kind["NONE"] if name == "none" else kind[choose(generator, options[name])]

    mouth, eyes, eyebrows = choose(generator, EXPRESSIONS[look.expression])
    covered = look.headwear != "none"
    avatar = parts.Avatar(
        style=parts.AvatarStyle.TRANSPARENT,
        top=part(parts.HatType, HATS, look.headwear) if covered else part(parts.HairType, HAIR_STYLES, look.hair_style),
        hat_color=_hex(generator, CLOTH_COLORS, look.headwear_color),
        eyebrows=parts.EyebrowType[eyebrows],
        eyes=parts.EyeType[eyes],
        nose=parts.NoseType[choose(generator, ("DEFAULT", "SMALL", "WIDE"))],
        mouth=parts.MouthType[mouth],
        facial_hair=part(parts.FacialHairType, FACIAL_HAIR, look.facial_hair),
        skin_color=_hex_code(jittered(generator, choose(generator, SKIN_COLORS), 5)),
        hair_color=_hex(generator, HAIR_COLORS, look.hair_color),
        facial_hair_color=_hex(generator, HAIR_COLORS, look.facial_hair_color),
        accessory=part(parts.AccessoryType, EYEWEAR, look.eyewear),
        clothing=part(parts.ClothingType, GARMENTS, look.garment),
        clothing_color=_hex(generator, CLOTH_COLORS, look.garment_color if look.garment_color != "none" else "white"),
    )
    return str(avatar.render())


def _hex(generator: np.random.Generator, colors: dict[str, Color], name: str) -> str:
    """The named colour, jittered. Parts without a colour ('none') are not drawn; they get black."""
    return _hex_code(jittered(generator, colors["black" if name == "none" else name], 7))


def _hex_code(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _compose(image: Image.Image, svg: str, generator: np.random.Generator) -> None:
    """Paste the avatar at the picture's lower edge: moved, scaled, and mirrored with probability 1/2."""
    side_px = image.width
    scale = generator.uniform(1.15, 1.4) if chance(generator, 0.15) else generator.uniform(0.9, 1.1)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=round(side_px * scale), skip_system_fonts=True)
    avatar = Image.open(BytesIO(png)).convert("RGBA")
    if chance(generator, 0.5):
        avatar = avatar.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = (side_px - avatar.width) / 2 + generator.normal(0, 0.04) * side_px
    top = max(side_px - avatar.height, generator.normal(0.0, 0.02) * side_px - 0.08 * side_px * (scale - 0.95))
    image.paste(avatar, (round(left), round(top)), avatar)
