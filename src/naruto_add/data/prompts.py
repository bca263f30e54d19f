"""Prompts: captions in `base.prompt_template`."""


def fill_template(prompt_template: str, caption: str) -> str:
    """The template with {caption} replaced by the caption. Other braces are plain text."""
    return prompt_template.replace("{caption}", caption)
