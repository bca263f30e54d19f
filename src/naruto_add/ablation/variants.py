"""The variants that an ablation compares, read from a file, and the DVC experiments that train them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from naruto_add.config.load import ParamsError, parse_params
from naruto_add.config.schema import Seed, Text

SEEDED = ("student.seed", "add.seed")
"""The keys that a variant's seed sets. The teacher keeps its seed, because all students are compared with it."""
VARIED = ("student.", "add.", "sampling.student_", "sampling.pool_steps")
"""Prefixes of the keys that a variant may set. Data, teacher and evaluation are the same for all variants."""
PREFIX = "ablation"

FAST_EVALUATION: dict[str, Any] = {
    "evaluate.latency_repeats": 1,
    "evaluate.student_sweep": [4],
    "evaluate.teacher_sweep": [4],
}
"""Settings of every experiment. They shorten measurements of latency, which the ablation does not compare."""

Name = Annotated[str, Field(pattern="^[a-z0-9_]+$")]


class Variant(BaseModel):
    """One entry of the file.

    `settings` are the differences from params.yaml, by dotted key. `subject` is the model whose metrics in
    metrics/evaluate.json are compared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    question: Text
    subject: Literal["distilled", "student", "teacher", "teacher_few_steps", "teacher_few_steps_dpm", "base"]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    settings: dict[str, Any]


class _VariantsFile(RootModel[Annotated[dict[Name, Variant], Field(min_length=1)]]):
    pass


@dataclass(frozen=True)
class Experiment:
    """One training of one variant: the name of the DVC experiment, and its differences from params.yaml."""

    name: str
    settings: Mapping[str, Any]


def read_variants(path: Path, values: Mapping[str, Any]) -> dict[str, Variant]:
    """The variants by name, in the file's order. `values` is the content of params.yaml.

    Raises ParamsError, which names the variant and the dotted key, if the file is missing or not YAML, if an entry is
    unknown, missing or of a wrong type, if the first variant's subject is not `distilled`, or if params.yaml with a
    variant's settings would be invalid.
    """
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from None
    try:
        variants = _VariantsFile.model_validate(content).root
    except ValidationError as error:
        raise ParamsError("\n".join(_describe(path, item) for item in error.errors())) from None
    first, *_ = variants
    if variants[first].subject != "distilled":
        raise ParamsError(
            f"{path}: {first}.subject: {variants[first].subject!r} is not allowed for the first variant, with whose "
            "distilled student all others are compared; use distilled, or list another variant first"
        )
    for name, variant in variants.items():
        _check_settings(f"{path}: {name}", variant)
        try:
            parse_params(with_settings(values, variant.settings))
        except ParamsError as error:
            raise ParamsError("\n".join(f"{path}: {name}: {line}" for line in str(error).splitlines())) from None
    return variants


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of params.yaml's content with these dotted keys set. The result is not checked.

    Raises ParamsError for a key inside a parameter that is not a section.
    """
    changed = copy.deepcopy(dict(values))
    for key, value in settings.items():
        *sections, name = key.split(".")
        target = changed
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ParamsError(f"{key}: {section} is not a section; profiles/default.yaml lists all parameters")
        target[name] = value
    return changed


def plan_experiments(variants: Mapping[str, Variant]) -> dict[str, list[Experiment]]:
    """The experiments of each variant, one per seed.

    Variants with equal settings share their experiments, which are named after the first of these variants.
    """
    return {
        name: [
            Experiment(
                f"{PREFIX}-{_first_with_settings(variants, variant.settings)}-{seed}",
                {**FAST_EVALUATION, **variant.settings, **dict.fromkeys(SEEDED, seed)},
            )
            for seed in variant.seeds
        ]
        for name, variant in variants.items()
    }


def select(names: Sequence[str], variants: Mapping[str, Variant]) -> list[str]:
    """These names, or the names of all variants if there are none. Raises ParamsError for an unknown name."""
    for name in names:
        if name not in variants:
            raise ParamsError(f"--only: {name!r} is not a variant; choose from {', '.join(variants)}")
    return list(names or variants)


def _first_with_settings(variants: Mapping[str, Variant], settings: Mapping[str, Any]) -> str:
    return next(name for name, variant in variants.items() if variant.settings == settings)


def _check_settings(where: str, variant: Variant) -> None:
    for key in variant.settings:
        if key in SEEDED:
            raise ParamsError(f"{where}: {key}: is set by the variant's seeds; list the seed there")
        if not key.startswith(VARIED):
            raise ParamsError(
                f"{where}: {key}: a variant can set only student.*, add.*, sampling.student_* and sampling.pool_steps"
            )
    if len(set(variant.seeds)) < len(variant.seeds):
        raise ParamsError(f"{where}: seeds: {variant.seeds} contains a seed twice; list each once")


def _describe(path: Path, item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "the file"
    match item["type"]:
        case "missing":
            return f"{path}: {key}: missing; every variant has question, subject, seeds and settings"
        case "extra_forbidden":
            return f"{path}: {key}: is unknown; a variant has question, subject, seeds and settings"
        case _:
            return f"{path}: {key}: {item['input']!r} is not allowed: {item['msg']}"
