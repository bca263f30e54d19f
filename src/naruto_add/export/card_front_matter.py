"""The front matter of the model cards, by which the hub lists a model: base, licence, tags, examples and metrics."""

from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from naruto_add.evaluation.catalog import describe, headline
from naruto_add.export import card_pictures
from naruto_add.export.card_facts import CardFacts, dataset_name, is_on_hub, licence
from naruto_add.runtime.errors import shown

_DISTANCES_TO_TEACHER = ("pd_", "lpips")


def front_matter(
    facts: CardFacts,
    subject: Literal["teacher", "distilled"],
    *,
    relation: Literal["adapter", "finetune"],
    tags: list[str],
) -> str:
    """YAML between two lines of dashes, with the headline metrics of one model."""
    own = licence(facts)
    optional: dict[str, Any] = {
        "base_model_relation": relation if is_on_hub(facts) else None,
        "instance_prompt": shown(facts.trigger_words) or None,
        "license_link": own.link or None,
    }
    data = ModelCardData(
        base_model=facts.base_model if is_on_hub(facts) else None,
        datasets=[facts.hub_dataset] if facts.source == "hub" else None,
        license=own.identifier,
        license_name="see-the-base-model" if own.identifier == "other" else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "stable-diffusion", "diffusers", *tags],
        model_name="naruto-add " + ("LoRA" if relation == "adapter" else "student"),
        eval_results=_eval_results(facts, subject) or None,
        widget=[
            {"text": shown(prompt), "output": {"url": card_pictures.example(index)}}
            for index, prompt in enumerate(facts.prompts)
        ],
        **{key: value for key, value in optional.items() if value},
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(facts: CardFacts, subject: str) -> list[EvalResult]:
    """The headline metrics of one model, for the teacher without those that compare a model with it."""
    own = {key.partition(".")[2]: value for key, value in facts.metrics.items() if key.partition(".")[0] == subject}
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=facts.hub_dataset if facts.source == "hub" else "custom",
            dataset_name=dataset_name(facts),
            dataset_split="test",
            metric_type=name,
            metric_value=own[name],
            metric_name=_metric_name(name, own),
        )
        for name in headline(set(own))
        if not (subject == "teacher" and name.startswith(_DISTANCES_TO_TEACHER))
    ]


def _metric_name(name: str, own: Mapping[str, float | int]) -> str:
    metric = describe(name)
    few = ", of fewer than 2,048 pictures" if own.get(f"{name}_n_small") else ""
    unit = f" ({metric.unit})" if metric and metric.unit else ""
    return f"{metric.meaning if metric else name}{unit}{few}"
