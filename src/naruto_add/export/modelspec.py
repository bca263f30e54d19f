"""Metadata by the standard ModelSpec that the LoRA and the single files share, by which tools describe a model."""

from naruto_add.diffusion.token_chunks import TOKENS_PER_CHUNK

SD_CONTEXT_WIDTH, SD2_CONTEXT_WIDTH = 768, 1024
"""Widths of the text encoders of Stable Diffusion 1.x and 2.x."""

_PREDICTIONS = {"v_prediction": "v"}
"""ModelSpec's names of what a model predicts, where diffusers has others."""


def modelspec(prompt_template: str, prediction_type: str) -> dict[str, str]:
    """Version of the standard, what the model predicts, and the trigger words if there are any."""
    words = trigger_words(prompt_template)
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.prediction_type": _PREDICTIONS.get(prediction_type, prediction_type),
    }
    return metadata | ({"modelspec.trigger_phrase": words} if words else {})


def usage_hint(settings: str, caption_chunks: int) -> dict[str, str]:
    """What a person has to set: these settings of a sampler, which may be empty, and long prompts."""
    chunks = f"prompts in {caption_chunks} chunks of {TOKENS_PER_CHUNK} tokens (long prompts on)"
    hints = [hint for hint in (settings, chunks if caption_chunks > 1 else "") if hint]
    return {"modelspec.usage_hint": ", ".join(hints)} if hints else {}


def trigger_words(prompt_template: str) -> str:
    """What the prompt template adds to a caption, or an empty text."""
    parts = [part.strip(" ,.;:") for part in prompt_template.split("{caption}")]
    return ", ".join(part for part in parts if part)
