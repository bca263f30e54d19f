"""The file of variants: mistakes are reported before anything runs, and equal settings share their experiments."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from naruto_add.ablation.variants import FAST_EVALUATION, plan_experiments, read_variants, select, with_settings
from naruto_add.config.load import ParamsError, parse_params
from naruto_add.config.profiles import compose_profile

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "profiles/ablation/mini.yaml"
FULL = {"question": "What is compared?", "subject": "distilled", "seeds": [0, 1], "settings": {}}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The content of params.yaml for profile mini."""
    loaded: dict[str, Any] = YAML(typ="safe").load(compose_profile("mini", root=ROOT))
    return loaded


def _file(folder: Path, variants: Any) -> Path:
    path = folder / "variants.yaml"
    YAML().dump(variants, path)
    return path


def test_the_shipped_file_is_valid(values: dict[str, Any]) -> None:
    variants = read_variants(SHIPPED, values)
    assert next(iter(variants)) == "full"
    assert variants["full"].settings == {}
    # Variants far from `full` need one seed only.
    assert all(len(variants[name].seeds) >= 3 for name in ("full", "no_adversarial", "before_add"))


def test_the_settings_of_shipped_variants_change_something(values: dict[str, Any]) -> None:
    for name, variant in read_variants(SHIPPED, values).items():
        assert not variant.settings or with_settings(values, variant.settings) != values, name


def test_nested_keys_are_set_and_nothing_else_changes() -> None:
    values = {"add": {"seed": 0, "optimizer": {"name": "adamw", "learning_rate": 0.1}}}
    changed = with_settings(values, {"add.optimizer.learning_rate": 0.2, "add.seed": 1})
    assert changed == {"add": {"seed": 1, "optimizer": {"name": "adamw", "learning_rate": 0.2}}}
    assert values["add"] == {"seed": 0, "optimizer": {"name": "adamw", "learning_rate": 0.1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": None}, r"variants\.yaml: full\.seeds: missing; every variant has"),
        ({"seeds": []}, r"full\.seeds: \[\] is not allowed: List should have at least 1 item"),
        ({"seeds": [1, 1]}, r"full: seeds: \[1, 1\] contains a seed twice"),
        ({"seeds": [-1]}, r"full\.seeds\.0: -1 is not allowed"),
        ({"subject": "base"}, r"full\.subject: 'base' is not allowed"),
        ({"subject": "student"}, r"full\.subject: 'student' is not allowed for the first variant"),
        ({"setings": {}}, r"full\.setings: is unknown; a variant has question, subject, seeds and settings"),
        ({"settings": {"add.adv_weigth": 0.0}}, r"full: add\.adv_weigth: 0\.0 is not a parameter"),
        ({"settings": {"add.adv_weight": "much"}}, r"full: add\.adv_weight: 'much' is not allowed"),
        ({"settings": {"add.optimizer.rate": 0.1}}, r"full: add\.optimizer\.rate: 0\.1 is not a parameter"),
        ({"settings": {"add.optimiser.name": "adamw"}}, r"full: add\.optimiser: .* is not a parameter"),
        ({"settings": {"add.num_steps.first": 1}}, r"full: add\.num_steps\.first: num_steps is not a section"),
        ({"settings": {"add.adv_ramp_steps": 10**6}}, r"full: add\.adv_ramp_steps: 1000000 after"),
        (
            {"settings": {"teacher.num_steps": 5}},
            r"full: teacher\.num_steps: a variant can set only student\.\*, add\.\*",
        ),
        ({"settings": {"sampling.teacher_steps": 5}}, r"full: sampling\.teacher_steps: a variant can set only"),
        ({"settings": {"add.seed": 5}}, r"full: add\.seed: is set by the variant's seeds"),
    ],
)
def test_mistakes_name_file_variant_and_key(
    change: dict[str, Any], message: str, values: dict[str, Any], tmp_path: Path
) -> None:
    variant = {key: value for key, value in {**FULL, **change}.items() if value is not None}
    with pytest.raises(ParamsError, match=message):
        read_variants(_file(tmp_path, {"full": variant}), values)


@pytest.mark.parametrize(("content", "message"), [("[", "cannot be read"), ("", "the file: None is not allowed")])
def test_a_file_without_variants_is_refused(content: str, message: str, values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text(content)
    with pytest.raises(ParamsError, match=message):
        read_variants(path, values)
    with pytest.raises(ParamsError, match="No such file"):
        read_variants(tmp_path / "none.yaml", values)


def test_names_are_lower_case_words(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"Full run\.\[key\]"):
        read_variants(_file(tmp_path, {"Full run": FULL}), values)


def test_reading_does_not_change_the_parameters(values: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(values)
    read_variants(_file(tmp_path, {"full": {**FULL, "settings": {"add.optimizer.learning_rate": 0.5}}}), values)
    assert values == before


def test_there_is_one_experiment_per_seed_and_equal_settings_share_theirs(
    values: dict[str, Any], tmp_path: Path
) -> None:
    path = _file(
        tmp_path,
        {
            "full": FULL,
            "weak": {**FULL, "settings": {"add.adv_weight": 0.5}},
            "before_add": {**FULL, "subject": "student", "seeds": [1, 2]},
        },
    )
    planned = plan_experiments(read_variants(path, values))
    assert [item.name for item in planned["full"]] == ["ablation-full-0", "ablation-full-1"]
    assert [item.name for item in planned["before_add"]] == ["ablation-full-1", "ablation-full-2"]
    expected = {**FAST_EVALUATION, "add.adv_weight": 0.5, "student.seed": 1, "add.seed": 1}
    assert planned["weak"][1].settings == expected
    parse_params(with_settings(values, expected))


def test_only_existing_variants_can_be_chosen(values: dict[str, Any]) -> None:
    variants = read_variants(SHIPPED, values)
    assert select([], variants) == list(variants)
    assert select(["before_add"], variants) == ["before_add"]
    with pytest.raises(ParamsError, match="--only: 'none' is not a variant; choose from full, three_times_the_steps"):
        select(["none"], variants)
