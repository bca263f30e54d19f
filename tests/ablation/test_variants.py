"""The variants' file: what is wrong in it is named before anything runs, and equal settings are trained once."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from naruto_add.ablation.variants import UNCOMPARED, experiments_of, read_variants, select, with_settings
from naruto_add.params import ParamsError, parse_params

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "profiles/ablation/mini.yaml"
FULL = {"says": "everything", "subject": "distilled", "seeds": [0, 1], "settings": {}}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(ROOT / "profiles/mini.yaml")
    return loaded


def _file(folder: Path, variants: Any) -> Path:
    path = folder / "variants.yaml"
    YAML().dump(variants, path)
    return path


def test_the_shipped_file_is_valid(values: dict[str, Any]) -> None:
    variants = read_variants(SHIPPED, values)
    trained = [name for name, variant in variants.items() if variant.subject == "distilled"]
    assert trained[0] == "full"
    assert variants["full"].settings == {}
    most_asked = ("full", "no_adversarial", "no_distillation", "no_warm_up", "consistency", "consistency_ddim")
    assert all(len(variants[name].seeds) >= 3 for name in most_asked)


def test_the_shipped_file_trains_no_variant_as_it_is_already(values: dict[str, Any]) -> None:
    for name, variant in read_variants(SHIPPED, values).items():
        assert not variant.settings or with_settings(values, variant.settings) != values, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": None}, r"variants\.yaml: full\.seeds: missing; every variant has"),
        ({"seeds": []}, r"full\.seeds: \[\] is refused: List should have at least 1 item"),
        ({"seeds": [1, 1]}, r"full: seeds: \[1, 1\] names one twice"),
        ({"seeds": [-1]}, r"full\.seeds\.0: -1 is refused"),
        ({"subject": "base"}, r"full\.subject: 'base' is refused"),
        ({"setings": {}}, r"full\.setings: is unknown; a variant has says, subject, seeds and settings"),
        ({"settings": {"add.adv_weigth": 0.0}}, r"full: add\.adv_weigth: 0\.0 is not a parameter"),
        ({"settings": {"add.adv_weight": "much"}}, r"full: add\.adv_weight: 'much' is refused"),
        ({"settings": {"add.adv_ramp_steps": 10**6}}, r"full: add\.adv_ramp_steps: 1000000 after"),
        ({"settings": {"teacher.num_steps": 5}}, r"full: teacher\.num_steps: variants differ in student\.\*, add\.\*"),
        ({"settings": {"sampling.teacher_steps": 5}}, r"full: sampling\.teacher_steps: variants differ in"),
        ({"settings": {"add.seed": 5}}, r"full: add\.seed: is set by the variant's seeds"),
    ],
)
def test_mistakes_name_file_variant_and_key(
    change: dict[str, Any], message: str, values: dict[str, Any], tmp_path: Path
) -> None:
    variant = {key: value for key, value in {**FULL, **change}.items() if value is not None}
    with pytest.raises(ParamsError, match=message):
        read_variants(_file(tmp_path, {"full": variant}), values)


@pytest.mark.parametrize(("content", "message"), [("[", "cannot be read"), ("", "the file: None is refused")])
def test_what_is_no_list_of_variants_is_refused(
    content: str, message: str, values: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text(content)
    with pytest.raises(ParamsError, match=message):
        read_variants(path, values)
    with pytest.raises(ParamsError, match="No such file"):
        read_variants(tmp_path / "none.yaml", values)


def test_names_are_words(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"Full run\.\[key\]"):
        read_variants(_file(tmp_path, {"Full run": FULL}), values)


def test_reading_leaves_the_parameters_as_they_are(values: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(values)
    read_variants(_file(tmp_path, {"full": {**FULL, "settings": {"add.adv_weight": 0.5}}}), values)
    assert values == before


def test_an_experiment_a_seed_and_equal_settings_share_theirs(values: dict[str, Any], tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {
            "full": FULL,
            "weak": {**FULL, "settings": {"add.adv_weight": 0.5}},
            "before_add": {**FULL, "subject": "student", "seeds": [1, 2]},
        },
    )
    planned = experiments_of(read_variants(path, values))
    assert [item.name for item in planned["full"]] == ["ablation-full-0", "ablation-full-1"]
    assert [item.name for item in planned["before_add"]] == ["ablation-full-1", "ablation-full-2"]
    expected = {**UNCOMPARED, "add.adv_weight": 0.5, "student.seed": 1, "add.seed": 1}
    assert planned["weak"][1].settings == expected
    parse_params(with_settings(values, expected))


def test_names_are_chosen_from_those_there_are(values: dict[str, Any]) -> None:
    variants = read_variants(SHIPPED, values)
    assert select([], variants) == list(variants)
    assert select(["no_pool"], variants) == ["no_pool"]
    with pytest.raises(ParamsError, match="'none' is not a variant; there are full, no_adversarial"):
        select(["none"], variants)
