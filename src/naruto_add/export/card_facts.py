"""What the model cards state about the models, and the words and licences that follow from it.

Names of data sets, models and prompts may come from elsewhere: YAML quotes them, and Markdown has them as code.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from naruto_add.config.schema import AddMethod, ExportFormat, StudentScheduler
from naruto_add.reporting.tables import Metrics
from naruto_add.runtime.errors import shown

HUB = "https://huggingface.co"
"""Where readers of a card find a base model, whatever hub it was loaded from."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the cards state. `hub_dataset` is used only if `source` is hub; `metrics` is metrics/evaluate.json."""

    base_model: str
    source: str
    hub_dataset: str
    method: AddMethod
    timesteps: list[int]
    prompts: list[str]
    """Complete prompts, of which there are pictures."""
    trigger_words: str
    resolution_px: int
    guidance_scale: float
    caption_chunks: int
    precision: Literal["fp32", "fp16"]
    metrics: Metrics
    has_plot: bool
    """Whether there is a plot of latency and quality."""
    formats: Sequence[ExportFormat]
    """What else the folder has."""
    has_tiny_decoder: bool
    student_scheduler: StudentScheduler
    unfit_reason: str
    """Why no tool for Stable Diffusion 1.x loads the single files; empty if they do."""


@dataclass(frozen=True)
class Licence:
    """The hub's identifier of a licence, its address (or empty), and what a card says of it."""

    identifier: str
    link: str
    text: str


_OPENRAIL = Licence(
    "creativeml-openrail-m",
    "https://github.com/CompVis/stable-diffusion/blob/main/LICENSE",
    "The base model is licensed under CreativeML Open RAIL-M. Its use restrictions (attachment A) apply to this model.",
)
EMBEDDED = Licence(
    "apache-2.0",
    "https://www.apache.org/licenses/LICENSE-2.0",
    "The base model is part of naruto-add and licensed under Apache-2.0.",
)
_BASE_LICENCES = {"base/model": EMBEDDED, "stable-diffusion-v1-5/stable-diffusion-v1-5": _OPENRAIL}
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


def code(text: str) -> str:
    """The text as inline code on one line, whatever backticks, control characters or Markdown it contains."""
    line = shown(text)
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line.strip() else ""
    return f"{fence}{space}{line}{space}{fence}"


def licence(facts: CardFacts) -> Licence:
    """The licence of the base model, which applies to its children."""
    text = f"The licence of the base model ({code(facts.base_model)}) applies."
    # The hub's own address, not that of a mirror in the environment: the cards depend on parameters alone.
    page = f"{HUB}/{facts.base_model}" if is_on_hub(facts) else ""
    return _BASE_LICENCES.get(facts.base_model) or Licence("other", page, text)


def is_on_hub(facts: CardFacts) -> bool:
    """Whether the base model is a repository of the hub."""
    return _BASE_LICENCES.get(facts.base_model) is not EMBEDDED and not Path(facts.base_model).exists()


def dataset_name(facts: CardFacts) -> str:
    """The data set in plain text."""
    return facts.hub_dataset if facts.source == "hub" else _DATASETS[facts.source]


def dataset(facts: CardFacts) -> str:
    """The data set in Markdown."""
    return code(facts.hub_dataset) if facts.source == "hub" else _DATASETS[facts.source]


def dataset_licence(facts: CardFacts) -> str:
    """What a card says of the licence of the training pictures."""
    name = facts.hub_dataset if facts.source == "hub" else facts.source
    return _DATASET_LICENCES.get(name, f"The licence of the training pictures ({dataset(facts)}) applies too.")
