"""README.md of an exported student: what it is, how to use it, its metrics and its licences."""

from dataclasses import dataclass
from typing import Literal

from naruto_add.config.schema import AddMethod
from naruto_add.evaluation.catalog import notes
from naruto_add.reporting.tables import SUBJECTS, Metrics, metrics_table


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card states. `hub_dataset` is used only if `source` is hub; `metrics` is metrics/evaluate.json."""

    base_model: str
    source: str
    hub_dataset: str
    method: AddMethod
    timesteps: list[int]
    prompt: str
    precision: Literal["fp32", "fp16"]
    metrics: Metrics


@dataclass(frozen=True)
class _Licence:
    identifier: str
    text: str


_OPENRAIL = _Licence(
    "creativeml-openrail-m",
    "The base model is licensed under CreativeML Open RAIL-M. Its use restrictions (attachment A) apply to this model.",
)
_EMBEDDED = _Licence("apache-2.0", "The base model is part of naruto-add and licensed under Apache-2.0.")
_BASE_LICENCES = {"base/model": _EMBEDDED, "stable-diffusion-v1-5/stable-diffusion-v1-5": _OPENRAIL}
_DATASET_LICENCES = {
    "shinobi": "The training pictures were drawn by naruto-add's code and are licensed under Apache-2.0.",
    "lambdalabs/naruto-blip-captions": (
        "The training pictures come from `lambdalabs/naruto-blip-captions`, whose card states no licence. "
        "Naruto and its characters belong to their owners; obtain their permission before public use."
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
    """The card in Markdown, with the hub's front matter."""
    licence = _BASE_LICENCES.get(facts.base_model) or _Licence(
        "other", f"The licence of the base model (`{facts.base_model}`) applies."
    )
    sections = [_front_matter(licence), _introduction(facts), _usage(facts)]
    if facts.metrics:
        sections.append(f"## Metrics\n\n{metrics_table(facts.metrics)}")
        sections += notes(facts.metrics, SUBJECTS)
    sections.append(f"## Licences\n\n{licence.text}\n\n{_dataset_licence(facts)}")
    return "\n\n".join(sections) + "\n"


def _front_matter(licence: _Licence) -> str:
    return "\n".join(
        ["---", f"license: {licence.identifier}", "library_name: diffusers", "pipeline_tag: text-to-image", "---"]
    )


def _introduction(facts: CardFacts) -> str:
    return (
        f"# A text-to-image model that draws in {len(facts.timesteps)} steps\n\n"
        f"A compact student of `{facts.base_model}`, finetuned on {_dataset(facts)} and distilled by "
        f"{_METHODS[facts.method]} with naruto-add. It was trained at the timesteps "
        f"{', '.join(map(str, facts.timesteps))}, which its scheduler visits in {len(facts.timesteps)} steps."
    )


def _usage(facts: CardFacts) -> str:
    return f"""## Usage

```python
{_LOADING[facts.precision]}
image = pipe({facts.prompt!r}, num_inference_steps={len(facts.timesteps)}).images[0]
image.save("picture.png")
```

Use {len(facts.timesteps)} steps: other numbers lead to timesteps that the model was not trained at. Guidance is
distilled into the model: `guidance_scale` and `negative_prompt` have no effect, because the U-Net's
`time_cond_proj_dim` turns classifier-free guidance off."""


def _dataset(facts: CardFacts) -> str:
    return f"`{facts.hub_dataset}`" if facts.source == "hub" else _DATASETS[facts.source]


def _dataset_licence(facts: CardFacts) -> str:
    name = facts.hub_dataset if facts.source == "hub" else facts.source
    return _DATASET_LICENCES.get(name, f"The licence of the training pictures ({_dataset(facts)}) applies too.")
