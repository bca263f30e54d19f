"""The variants that an ablation compares, as declared in a file, and the experiments that they take."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from naruto_add.params import ParamsError, Seed, Text, parse_params

SEEDED = ("student.seed", "add.seed")
"""What a seed sets: pool, warm-up, heads, batches and noise. The teacher stays, for it is what students are held to."""
VARIED = ("student.", "add.", "sampling.student_scheduler")
"""Beginnings of the keys that a variant may set: data, teacher and yardstick are the same for all."""
PREFIX = "ablation"

UNCOMPARED: dict[str, Any] = {
    "evaluate.latency_repeats": 1,
    "evaluate.student_sweep": [4],
    "evaluate.teacher_sweep": [4],
}
"""Of every experiment: variants are not compared by how long pictures take, which takes long to measure."""

Name = Annotated[str, Field(pattern="^[a-z0-9_]+$")]


class Variant(BaseModel):
    """`settings` go over params.yaml, by dotted key; `subject` is whose figures in metrics/evaluate.json count."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    says: Text
    subject: Literal["distilled", "student", "teacher_few_steps", "teacher_few_steps_dpm"]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    settings: dict[str, Any]


class _Variants(RootModel[Annotated[dict[Name, Variant], Field(min_length=1)]]):
    """The whole file."""


@dataclass(frozen=True)
class Experiment:
    """One training of one variant: its name for DVC, and all that is set in it."""

    name: str
    settings: Mapping[str, Any]


def read_variants(path: Path, values: Mapping[str, Any]) -> dict[str, Variant]:
    """The variants by name, in the file's order, each tried on these values of params.yaml.

    Raises ParamsError for a file that is not there or not YAML, for unknown, missing and wrong entries, and for
    settings that params.yaml could not hold; it names the dotted key.
    """
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from None
    try:
        variants = _Variants.model_validate(content).root
    except ValidationError as error:
        raise ParamsError("\n".join(_describe(path, item) for item in error.errors())) from None
    for name, variant in variants.items():
        _check_settings(f"{path}: {name}", variant)
        try:
            parse_params(with_settings(values, variant.settings))
        except ParamsError as error:
            raise ParamsError("\n".join(f"{path}: {name}: {line}" for line in str(error).splitlines())) from None
    return variants


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of params.yaml with these dotted keys set, unchecked."""
    changed = copy.deepcopy(dict(values))
    for key, value in settings.items():
        section, _, name = key.partition(".")
        changed[section][name] = value
    return changed


def experiments_of(variants: Mapping[str, Variant]) -> dict[str, list[Experiment]]:
    """Every variant's experiments, one a seed; equal settings share theirs, under the first such variant's name."""
    return {
        name: [
            Experiment(
                f"{PREFIX}-{_owner(variants, variant)}-{seed}",
                {**UNCOMPARED, **variant.settings, **_seed_settings(seed)},
            )
            for seed in variant.seeds
        ]
        for name, variant in variants.items()
    }


def select(names: Sequence[str], variants: Mapping[str, Variant]) -> list[str]:
    """These names, or all of them where there are none. Raises ParamsError for one that is not there."""
    for name in names:
        if name not in variants:
            raise ParamsError(f"{name!r} is not a variant; there are {', '.join(variants)}")
    return list(names or variants)


def _owner(variants: Mapping[str, Variant], variant: Variant) -> str:
    return next(name for name, other in variants.items() if other.settings == variant.settings)


def _seed_settings(seed: int) -> dict[str, int]:
    return dict.fromkeys(SEEDED, seed)


def _check_settings(where: str, variant: Variant) -> None:
    for key in variant.settings:
        if key in SEEDED:
            raise ParamsError(f"{where}: {key}: is set by the variant's seeds; name them there")
        if not key.startswith(VARIED):
            raise ParamsError(
                f"{where}: {key}: variants differ in student.*, add.* and sampling.student_scheduler only"
            )
    if len(set(variant.seeds)) < len(variant.seeds):
        raise ParamsError(f"{where}: seeds: {variant.seeds} names one twice; name it once")


def _describe(path: Path, item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "the file"
    match item["type"]:
        case "missing":
            return f"{path}: {key}: missing; every variant has says, subject, seeds and settings"
        case "extra_forbidden":
            return f"{path}: {key}: is unknown; a variant has says, subject, seeds and settings"
        case _:
            return f"{path}: {key}: {item['input']!r} is refused: {item['msg']}"
