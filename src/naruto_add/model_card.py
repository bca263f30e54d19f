"""The README.md of an exported student: what it is, how to draw with it, how good it is, under which licences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from naruto_add.catalog import FEW_MARK, describe, headline, interval, is_flagged, notes, number
from naruto_add.params import AddMethod

SUBJECTS = ("base", "teacher", "student", "distilled")
"""Columns of the table, in this order."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card says; `hub_dataset` is named where `source` is hub; `metrics` has keys `<subject>.<metric>`."""

    base_model: str
    source: str
    hub_dataset: str
    method: AddMethod
    timesteps: list[int]
    prompt: str
    precision: Literal["fp32", "fp16"]
    metrics: Mapping[str, float | int]


@dataclass(frozen=True)
class _Licence:
    identifier: str
    text: str


_OPENRAIL = _Licence(
    "creativeml-openrail-m",
    "The base model is under CreativeML Open RAIL-M; its use restrictions (attachment A) pass on to this model.",
)
_EMBEDDED = _Licence("apache-2.0", "The base model is naruto-add's own, under Apache-2.0.")
_BASE_LICENCES = {"base/model": _EMBEDDED, "stable-diffusion-v1-5/stable-diffusion-v1-5": _OPENRAIL}
_DATASET_LICENCES = {
    "shinobi": "The pictures it was finetuned on were drawn by naruto-add's own code, under Apache-2.0.",
    "lambdalabs/naruto-blip-captions": (
        "The pictures it was finetuned on come from `lambdalabs/naruto-blip-captions`, whose card states no licence; "
        "Naruto and its characters belong to their owners, so ask them before any use in public."
    ),
}
_DATASETS = {
    "shinobi": "drawn shinobi",
    "folder": "a folder of captioned pictures",
    "parquet": "captioned pictures in Parquet files",
}
_METHODS: dict[AddMethod, str] = {
    "adversarial": "adversarial diffusion distillation",
    "consistency": "latent consistency distillation",
}
_LOADING = {
    "fp32": """from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("path/to/this/folder")""",
    "fp16": """import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("path/to/this/folder", dtype=torch.float16).to("cuda")""",
}


def model_card(facts: CardFacts) -> str:
    """The whole card in Markdown, with the hub's front matter."""
    licence = _BASE_LICENCES.get(facts.base_model) or _Licence(
        "other", f"The licence of the base model (`{facts.base_model}`) applies."
    )
    sections = [_front_matter(licence), _introduction(facts), _usage(facts)]
    if facts.metrics:
        sections.append(f"## Figures\n\n{metrics_table(facts.metrics)}")
        sections += notes(facts.metrics, SUBJECTS)
    sections.append(f"## Licences\n\n{licence.text}\n\n{_dataset_licence(facts)}")
    return "\n\n".join(sections) + "\n"


def metrics_table(metrics: Mapping[str, float | int]) -> str:
    """A Markdown table: a row for every headline metric with its better direction, a column for every subject."""
    subjects = [subject for subject in SUBJECTS if any(key.startswith(f"{subject}.") for key in metrics)]
    names = headline({key.partition(".")[2] for key in metrics if key.partition(".")[0] in subjects})
    head = ["| metric | better | " + " | ".join(subjects) + " |", "|---|---|" + "---:|" * len(subjects)]
    rows = [
        f"| {name}{f' {FEW_MARK}' if is_flagged(metrics, name, subjects) else ''} | {_better(name)} | "
        + " | ".join(_cell(metrics, f"{subject}.{name}") for subject in subjects)
        + " |"
        for name in names
    ]
    return "\n".join([*head, *rows])


def _better(name: str) -> str:
    metric = describe(name)
    return metric.better if metric else ""


def _cell(metrics: Mapping[str, float | int], key: str) -> str:
    """The figure, and its 95% interval where there is one."""
    if key not in metrics:
        return ""
    bounds = interval(metrics, key)
    span = f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else ""
    return number(metrics[key]) + span


def _front_matter(licence: _Licence) -> str:
    return "\n".join(
        ["---", f"license: {licence.identifier}", "library_name: diffusers", "pipeline_tag: text-to-image", "---"]
    )


def _introduction(facts: CardFacts) -> str:
    return (
        f"# A text-to-image model that draws in {len(facts.timesteps)} steps\n\n"
        f"A compact student of `{facts.base_model}`, finetuned on {_dataset(facts)} and distilled by "
        f"{_METHODS[facts.method]} with naruto-add. It was trained at the timesteps "
        f"{', '.join(map(str, facts.timesteps))}, and its scheduler visits these."
    )


def _usage(facts: CardFacts) -> str:
    return f"""## Usage

```python
{_LOADING[facts.precision]}
image = pipe({facts.prompt!r}, num_inference_steps={len(facts.timesteps)}).images[0]
image.save("picture.png")
```

Use {len(facts.timesteps)} steps: at any other number the model meets noise levels that it was not trained on. Guidance
is built in; `guidance_scale` and `negative_prompt` change nothing, since the U-Net's `time_cond_proj_dim` makes the
pipeline call it once a step."""


def _dataset(facts: CardFacts) -> str:
    return f"`{facts.hub_dataset}`" if facts.source == "hub" else _DATASETS[facts.source]


def _dataset_licence(facts: CardFacts) -> str:
    name = facts.hub_dataset if facts.source == "hub" else facts.source
    return _DATASET_LICENCES.get(
        name, f"The licence of the pictures it was finetuned on ({_dataset(facts)}) applies too."
    )
