"""naruto_add.json in an exported folder: how `naruto-add generate` samples the student. diffusers ignores the file."""

from dataclasses import asdict, dataclass
from pathlib import Path

from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import read_json, write_json

FILE = "naruto_add.json"


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The number of steps that the student was trained for, and how the prompts that it was trained on were made.

    `caption_chunks` is missing in files of earlier versions, which had one chunk.
    """

    num_inference_steps: int
    prompt_template: str
    caption_chunks: int = 1


def write_settings(folder: Path, settings: SamplingSettings) -> None:
    """Write the file."""
    write_json(folder / FILE, asdict(settings))


def read_settings(folder: Path) -> SamplingSettings | None:
    """The content of the file, or None if there is none. Raises StageError if it is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return SamplingSettings(**read_json(path))
    except (TypeError, ValueError) as error:
        raise StageError(f"{path}: is damaged ({error}); export the student again with `dvc repro export`") from None
