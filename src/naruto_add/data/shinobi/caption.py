"""Captions of shinobi pictures: a random selection of what they show."""

from numpy.random import Generator

from naruto_add.data.shinobi.attributes import NONE, Attributes

_HAIR_PROBABILITY = 0.95
_MAX_OTHER_FACTS = 4
_COLOR_ONLY_PROBABILITY = 0.25

_ADJECTIVES = ("smiling", "angry", "shouting")
_PLACES = {
    "village": "in a village",
    "forest": "in a forest",
    "sunset": "at sunset",
    "night": "at night",
    "mountain": "in front of a mountain",
    "waterfall": "in front of a waterfall",
    "desert": "in a desert",
    "snow": "in the snow",
    "cherry blossoms": "under cherry blossoms",
}
_POSES = {"left": "looking to the left", "right": "looking to the right", "meditating": "meditating"}


def write_caption(attributes: Attributes, generator: Generator) -> str:
    """A phrase that names the subject, nearly always the hair, and one to four other attributes."""
    facts = _facts(attributes)
    count = min(len(facts), int(generator.integers(1, _MAX_OTHER_FACTS + 1)))
    told = {facts[place] for place in generator.choice(len(facts), size=count, replace=False)}
    if generator.random() < _HAIR_PROBABILITY:
        told.add("hair")
    with_part = joined(_with(attributes, told, generator))
    wearing_part = joined(_wearing(attributes, told, generator))
    words = [_subject(attributes, told)]
    if with_part:
        words.append(f"with {with_part}")
    if wearing_part:
        words.append(f"{_wearing_verb(with_part, generator)} {wearing_part}")
    if "item" in told and not with_part.endswith(attributes.item):
        words.append(f"holding {_a(attributes.item)}")
    if "pose" in told:
        words.append(_POSES[attributes.pose])
    if "background" in told:
        words.append(_place(attributes.background))
    return " ".join(words)


def hair_words(attributes: Attributes, *, color_only: bool) -> str:
    """The colour of the hair, and its style unless `color_only`; not for bald heads."""
    color, style = attributes.hair_color, attributes.hair_style
    if color_only:
        return f"{color} hair"
    match style:
        case "mohawk" | "ponytail":
            return _a(f"{color} {style}")
        case "twin tails":
            return f"{color} twin tails"
        case "buns":
            return f"{color} hair buns"
        case _:
            return f"{style} {color} hair"


def joined(parts: list[str]) -> str:
    """The parts separated by commas, with `and` before the last."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _facts(attributes: Attributes) -> list[str]:
    """The attributes, other than hair, that a caption can name."""
    facts = ["garment", "background"]
    facts += ["headwear"] if attributes.headwear != NONE else []
    facts += ["face_mark"] if attributes.face_mark != NONE else []
    facts += ["mask"] if attributes.mask != NONE else []
    facts += ["item"] if attributes.item != NONE else []
    facts += ["expression"] if attributes.expression != "serious" else []
    facts += ["pose"] if attributes.pose in _POSES else []
    return facts


def _subject(attributes: Attributes, told: set[str]) -> str:
    words = [attributes.subject]
    if attributes.hair_style == "bald" and "hair" in told:
        words.insert(0, "bald")
    if "expression" in told and attributes.expression in _ADJECTIVES:
        words.insert(0, attributes.expression)
    return _a(" ".join(words))


def _with(attributes: Attributes, told: set[str], generator: Generator) -> list[str]:
    parts = []
    if "hair" in told and attributes.hair_style != "bald":
        parts.append(hair_words(attributes, color_only=generator.random() < _COLOR_ONLY_PROBABILITY))
    if "face_mark" in told:
        parts.append("a scar" if attributes.face_mark == "scar" else "whisker marks")
    if "expression" in told and attributes.expression == "closed eyes":
        parts.append("closed eyes")
    if "item" in told and generator.random() < 0.5:
        parts.append(_a(attributes.item))
    return parts


def _wearing(attributes: Attributes, told: set[str], generator: Generator) -> list[str]:
    parts = []
    if "headwear" in told:
        parts.append(_a(attributes.headwear))
    if "mask" in told:
        parts.append("a mask")
    if "garment" in told:
        garment = f"{attributes.garment_color} {attributes.garment}"
        parts.append(garment if attributes.garment == "armor" else _a(garment))
    return [parts[place] for place in generator.permutation(len(parts))]


def _wearing_verb(with_part: str, generator: Generator) -> str:
    """'wears' or 'wearing'; 'wears' only if no 'with' precedes it."""
    return "wears" if not with_part and generator.random() < 0.6 else "wearing"


def _place(background: str) -> str:
    return _PLACES[background] if background in _PLACES else f"on {_a(background)}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
