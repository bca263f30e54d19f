"""What parameters and computations both take for granted; changing it changes results, so every stage depends on it."""

import re

NUM_TRAIN_TIMESTEPS = 1000
"""Length of SD 1.x's noise schedule, which every model here shares."""
CAPTION_MATCH = "caption_match"
"""`add.image_text_network` that is trained on the spot; anything else names a CLIP."""
CLIP_L14 = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
"""The CLIP of `evaluate.features: clip`."""

Resolution = int | str
"""The side of square pictures, or WIDTHxHEIGHT."""


def sides_px(resolution: Resolution) -> tuple[int, int]:
    """Width and height. Raises ValueError for text that is neither a number nor WIDTHxHEIGHT."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(resolution))
    if not match:
        raise ValueError(f"{resolution!r} is neither a side nor WIDTHxHEIGHT; write 96 or 128x64")
    width, height = match.groups()
    return int(width), int(height or width)
