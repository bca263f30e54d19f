"""Profiles are complete and explained, params.yaml is composed from them, and switching loses no values."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from naruto_add.config.load import ParamsError, load_params
from naruto_add.config.profiles import compose_profile, profile_names, use_profile
from naruto_add.config.schema import Params

ROOT = Path(__file__).parents[2]
MIN_WORDS = 2
PRESETS = ["sd15-12gb", "sd15-16gb", "sd15-24gb", "sd15-80gb", "sd15-8gb"]
SAVING_MEMORY = re.compile(
    r"(teacher|student|add)\.(accumulation_steps|gradient_checkpointing|optimizer\.(name|ema_on_cpu))"
    r"|evaluate\.batch_size"
)
"""Parameters that change no result but by rounding. (AdamW in 8 bits rounds its averages.)"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    for path in (ROOT / "profiles").glob("*.yaml"):
        (tmp_path / "profiles" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _overlay(project: Path, text: str) -> str:
    (project / "profiles/mine.yaml").write_text(text)
    return compose_profile("mine", root=project)


def test_the_profiles_are_the_overlays() -> None:
    assert profile_names(ROOT) == ["mini", "sd15", *PRESETS]


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_every_profile_is_valid(project: Path, name: str) -> None:
    use_profile(name, root=project, force=False)
    load_params(project / "params.yaml")


def test_params_as_committed_are_mini() -> None:
    assert (ROOT / "params.yaml").read_text() == compose_profile("mini", root=ROOT)


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_an_overlay_contains_only_values_that_differ(name: str) -> None:
    overlay = dict(_leaves(YAML(typ="safe").load(ROOT / "profiles" / f"{name}.yaml")))
    extended = overlay.pop("extends", None)
    source = compose_profile(extended, root=ROOT) if extended else (ROOT / "profiles/default.yaml").read_text()
    default = dict(_leaves(YAML(typ="safe").load(source)))
    assert [key for key, value in overlay.items() if default[key] == value] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_for_a_card_trains_the_same_model(name: str) -> None:
    """With the same batches, networks and data as sd15: only what saves memory differs."""
    sd15, preset = (dict(_leaves(YAML(typ="safe").load(compose_profile(each, root=ROOT)))) for each in ("sd15", name))
    assert [key for key in sd15 if sd15[key] != preset[key] and not SAVING_MEMORY.fullmatch(key)] == []


def test_a_profile_extends_another_and_that_one_another(project: Path) -> None:
    (project / "profiles/one.yaml").write_text("extends: mini\nadd:\n  adv_weight: 0.7\n  batch_size: 64\n")
    values = YAML(typ="safe").load(_overlay(project, "extends: one\nadd:\n  batch_size: 128\n"))
    mini = YAML(typ="safe").load(compose_profile("mini", root=project))
    mini["add"] |= {"adv_weight": 0.7, "batch_size": 128}
    assert values == mini


def test_every_key_of_default_has_a_comment_that_explains_it() -> None:
    """A comment has words besides those of the key, and names every value of a key that allows only certain ones."""
    default = YAML().load(ROOT / "profiles/default.yaml")
    choices = dict(_choices(Params))
    for key, comment in _comments(default):
        own_words = set(key.replace(".", "_").split("_")) | {"of", "the", "a"}
        assert len(set(comment.split()) - own_words) >= MIN_WORDS, f"{key}: {comment!r} explains nothing"
        missing = [choice for choice in choices.get(key, ()) if choice not in comment]
        assert missing == [], f"{key}: the comment does not name {missing}"
    assert {key for key, _ in _comments(default)} == {key for key, _ in _leaves(default)}


def test_comments_of_default_are_kept(project: Path) -> None:
    composed = YAML().load(_overlay(project, "add:\n  discriminators: [pixel]\n  adv_weight: 0.7\n"))
    default = YAML().load(project / "profiles/default.yaml")
    assert dict(_comments(composed)) == dict(_comments(default))


def test_values_of_the_overlay_win_and_others_stay(project: Path) -> None:
    values = YAML(typ="safe").load(
        _overlay(project, "add:\n  optimizer:\n    learning_rate: 1.0e-6\n  adv_weight: 0.7\n")
    )
    default = dict(_leaves(YAML(typ="safe").load(project / "profiles/default.yaml")))
    changed = {key: value for key, value in _leaves(values) if default[key] != value}
    assert changed == {"add.optimizer.learning_rate": 1e-6, "add.adv_weight": 0.7}


def test_comments_of_changed_values_are_in_the_common_column(project: Path) -> None:
    lines = _overlay(project, 'base:\n  model: base/model\nevaluate:\n  clip_score: "off"\n').splitlines()
    changed = [line for line in lines if line.startswith(("  model:", "  clip_score:"))]
    assert [line.index(" # ") + 1 for line in changed] == [34, 34]


def test_an_empty_overlay_is_the_default(project: Path) -> None:
    default = YAML(typ="safe").load(project / "profiles/default.yaml")
    assert YAML(typ="safe").load(_overlay(project, "# nothing differs\n")) == default


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("typo: 1\n", "profiles/mine.yaml: typo is not a parameter"),
        ("add:\n  typo: 1\n", "profiles/mine.yaml: add.typo is not a parameter"),
        ("add:\n  optimizer:\n    typo: 1\n", "profiles/mine.yaml: add.optimizer.typo is not a parameter"),
        ("add:\n  optimizer: adamw\n", "add.optimizer: 'adamw'"),
        ("add: 3\n", "add: 3"),
        ("extends: huge\n", "profiles/mine.yaml: extends: 'huge' is not a profile"),
        ("extends: mine\n", "profiles/mine.yaml: extends: 'mine' extends itself"),
        ("- 3\n", "profiles/mine.yaml: .* has no sections"),
        ("add: {", "mine.yaml: not YAML"),
        ("add:\n  adv_weight: -1.0\n", "add.adv_weight: -1.0"),
    ],
)
def test_an_overlay_with_a_mistake_is_refused(project: Path, overlay: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        _overlay(project, overlay)
    with pytest.raises(ParamsError, match=message):
        use_profile("mine", root=project, force=True)
    assert not (project / "params.yaml").exists()


@pytest.mark.parametrize("name", ["huge", "../params", "mini.yaml", "", "Mini", "default"])
def test_unknown_names_are_refused(project: Path, name: str) -> None:
    with pytest.raises(ParamsError, match=r"is not a profile; .*profiles has mini, sd15, "):
        use_profile(name, root=project, force=False)


def test_a_profile_replaces_another_and_leaves_no_other_file(project: Path) -> None:
    for name in ("sd15", "mini"):
        use_profile(name, root=project, force=False)
        assert (project / "params.yaml").read_text() == compose_profile(name, root=project)
    assert {path.name for path in project.iterdir()} == {"params.yaml", "profiles"}


def test_params_with_other_values_are_replaced_only_by_force(project: Path) -> None:
    params = project / "params.yaml"
    edited = compose_profile("mini", root=project).replace("adv_weight: 20.0", "adv_weight: 0.7")
    params.write_text(edited)
    with pytest.raises(ParamsError, match="values that are in no profile"):
        use_profile("sd15", root=project, force=False)
    assert params.read_text() == edited
    use_profile("sd15", root=project, force=True)
    assert params.read_text() == compose_profile("sd15", root=project)


def test_params_in_another_layout_are_replaced(project: Path) -> None:
    """DVC rewrites lists and numbers of params.yaml; its values are still those of the profile."""
    values = YAML(typ="safe").load(compose_profile("mini", root=project))
    YAML().dump(values, project / "params.yaml")
    use_profile("sd15", root=project, force=False)
    assert (project / "params.yaml").read_text() == compose_profile("sd15", root=project)


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _comments(values: CommentedMap, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The comment at the end of each leaf's line."""
    for key, value in values.items():
        if isinstance(value, CommentedMap):
            yield from _comments(value, f"{prefix}{key}.")
        else:
            tokens = values.ca.items.get(key) or []
            yield f"{prefix}{key}", " ".join(token.value.strip("# \n") for token in tokens if token)


def _choices(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """The allowed values of the keys that are one of several texts."""
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _choices(annotation, f"{prefix}{name}.")
        elif get_origin(annotation) is Literal:
            yield f"{prefix}{name}", get_args(annotation)


def test_a_profile_is_written_again_after_a_parameter_was_added(project: Path) -> None:
    use_profile("mini", root=project, force=False)
    target = project / "params.yaml"
    without = "".join(line for line in target.read_text().splitlines(keepends=True) if "snr_gamma:" not in line)
    target.write_text(without)
    use_profile("mini", root=project, force=False)
    assert "snr_gamma:" in target.read_text()
