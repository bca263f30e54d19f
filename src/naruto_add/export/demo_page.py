"""demo.html: the student in a web page that draws without a server, as one file that is opened by a double click.

The page of `demo/` gets the ONNX networks with fp16 weights, each file as gzip in base64, and a JSON with the sampler,
the examples, and what the model is. The page draws a seed's noise as torch does, so that its pictures are Python's.

Networks that are too large for a page stay in the folders `onnx` and `onnx_int8` beside it. Their names and sizes, and
the id in their sampler.json, are in the JSON; by them the page knows the files that a person chooses.
"""

import base64
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from naruto_add.config.constants import trailing_timesteps
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import make_student_scheduler
from naruto_add.export.onnx_files import sampler_steps
from naruto_add.export.onnx_half import half_network
from naruto_add.generate.onnx_pipeline import SAMPLER, TEXT_ENCODER, TOKENIZER, UNET, VAE_DECODER
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.units import MIB

FILE = "demo.html"
MAX_MIB = 300
"""Limit of the networks in a page. Browsers read no script element of 512 MiB, and phones have little memory."""
STEP_COUNTS = range(1, 9)
"""Numbers of steps that the page offers, besides the trained one."""
_NETWORKS = (TEXT_ENCODER, UNET, VAE_DECODER)
_PLACE = "<!-- model -->"
_QUALITY = 92

Step = dict[str, float | int]


@dataclass(frozen=True)
class DemoExample:
    """A caption that the page offers, and what the teacher draws for it from the noise of the seeds 0, 1, ..."""

    caption: str
    teacher: Sequence[Image.Image]


@dataclass(frozen=True, kw_only=True)
class DemoFacts:
    """What the page shows and how it samples."""

    title: str
    model: str
    """The model's name in the metadata of the pictures."""
    about: list[str]
    """Paragraphs of plain text with Markdown's inline code."""
    examples: list[DemoExample]
    teacher_steps: int
    trained_timesteps: list[int]
    steps: dict[int, list[Step]]
    """For each number of steps that the page offers: timestep, a and b of x' = a x + b eps, x0_a and x0_b of x0."""


def fits_in_page(onnx_dir: Path) -> bool:
    """Whether a page can hold these networks with fp16 weights, which are half of the files in fp32."""
    sizes = [path.stat().st_size for name in _NETWORKS for path in onnx_dir.glob(f"{name}*")]
    return sum(sizes) / 2 <= MAX_MIB * MIB


def write_demo_page(path: Path, *, template: str, onnx_dir: Path, facts: DemoFacts) -> None:
    """Write the page from the built template and the files of the format onnx, which are in the page then."""
    files = {name: half_network(onnx_dir / name) for name in _NETWORKS}
    files[TOKENIZER] = (onnx_dir / TOKENIZER).read_bytes()
    packed = (f'<script type="text/plain" data-file="{name}">{_packed(data)}</script>' for name, data in files.items())
    _write(path, template, _model(facts, onnx_dir), *packed)


def write_page_beside(path: Path, *, template: str, onnx_dirs: Sequence[Path], facts: DemoFacts) -> None:
    """Write the page for networks that stay in these folders beside it, all of the same student."""
    sizes = {folder.name: {file.name: file.stat().st_size for file in folder.iterdir()} for folder in onnx_dirs}
    _write(path, template, {**_model(facts, onnx_dirs[0]), "files": sizes})


def step_table(teacher_scheduler: Any, num_trained: int) -> dict[int, list[Step]]:
    """The student's deterministic sampler at each number of steps that the page offers.

    x0_a and x0_b give the x0 that a prediction implies: x0 = x0_a x + x0_b eps. Left out are numbers at which diffusers
    would visit one timestep too many.
    """
    signals = alphas_cumprod(teacher_scheduler)
    table = {}
    for num in sorted({*STEP_COUNTS, num_trained}):
        if len(trailing_timesteps(num)) != num:
            continue
        steps = sampler_steps(make_student_scheduler(teacher_scheduler, "ddim", num), num)
        for step in steps:
            signal = float(signals[int(step["timestep"])])
            step["x0_a"] = signal**-0.5
            step["x0_b"] = -(((1 - signal) / signal) ** 0.5)
        table[num] = steps
    return table


def unpack_demo_page(path: Path, folder: Path) -> None:
    """Write the page's networks, tokenizer.json and sampler.json, as the page reads them, for `OnnxPipeline`."""
    page = path.read_text(encoding="utf-8")
    for name in (*_NETWORKS, TOKENIZER):
        (packed,) = re.findall(rf'<script type="text/plain" data-file="{re.escape(name)}">([^<]*)</script>', page)
        (folder / name).write_bytes(gzip.decompress(base64.b64decode(packed)))
    (text,) = re.findall(r'<script type="application/json" id="model">([^<]*)</script>', page)
    model = json.loads(text)
    sampler = {
        "latent_shape": model["latent_shape"],
        "prompt_template": model["prompt_template"],
        "caption_chunks": 1,
        "steps": model["steps"][str(len(model["trained_timesteps"]))],
    }
    (folder / SAMPLER).write_text(json.dumps(sampler), encoding="utf-8")


def _write(path: Path, template: str, model: dict[str, Any], *elements: str) -> None:
    before, place, after = template.partition(_PLACE)
    if not place:
        raise StageError(f"export.formats: demo: the built page lacks {_PLACE}; restore it in demo/src/page.html")
    script = f'<script type="application/json" id="model">{_json(model)}</script>'
    path.write_text("\n".join([before, script, *elements, after]), encoding="utf-8")


def _model(facts: DemoFacts, onnx_dir: Path) -> dict[str, Any]:
    """What the page's program reads; `demo/src/main.js` has the same names."""
    sampler = json.loads((onnx_dir / SAMPLER).read_text(encoding="utf-8"))
    return {
        "id": sampler["id"],
        "title": facts.title,
        "model": facts.model,
        "about": facts.about,
        "latent_shape": sampler["latent_shape"],
        "prompt_template": sampler["prompt_template"],
        "trained_timesteps": facts.trained_timesteps,
        "teacher_steps": facts.teacher_steps,
        "steps": facts.steps,
        "examples": [
            {"prompt": example.caption, "teacher": list(_addresses(example.teacher))} for example in facts.examples
        ],
    }


def _addresses(pictures: Sequence[Image.Image]) -> Iterator[str]:
    for picture in pictures:
        stream = io.BytesIO()
        picture.save(stream, "WEBP", quality=_QUALITY)
        yield f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _json(value: Any) -> str:
    """JSON that no text in it can end the script element of."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
