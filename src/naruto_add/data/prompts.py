"""What a model is told: captions inside `teacher.prompt_template`."""


def fill_template(prompt_template: str, caption: str) -> str:
    """The template with the caption in the place of {caption}; other braces mean nothing."""
    return prompt_template.replace("{caption}", caption)
