"""Every mistake in params.yaml is named by its dotted key before any work is done."""

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler
from ruamel.yaml import YAML

from naruto_add.conventions import CLIP_L14
from naruto_add.params import ParamsError, load_params, parse_params
from naruto_add.params_rules import trailing_timesteps

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def mini() -> Any:
    return _read(ROOT / "profiles" / "mini.yaml")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_are_valid(path: Path) -> None:
    load_params(path)


def test_profiles_have_the_same_keys(mini: Any) -> None:
    for path in PROFILES:
        assert _keys(_read(path)) == _keys(mini), path


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_key_has_a_comment(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if re.match(r"\s*[a-z][a-z_0-9]*:", line)]
    assert [line for line in lines if "# " not in line] == []


def test_params_as_committed_are_mini() -> None:
    """What Git holds, whatever is being tried in the working tree."""
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True)
    committed = subprocess.run(["git", "show", "HEAD:profiles/mini.yaml"], cwd=ROOT, capture_output=True)
    if shown.returncode:
        pytest.skip("no Git repository with a params.yaml")
    assert shown.stdout == committed.stdout


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("add.adv_weight", -0.1, "add.adv_weight: -0.1"),
        ("add.adv_weight", float("nan"), "add.adv_weight: nan"),
        ("add.adv_weight", float("inf"), "add.adv_weight: inf"),
        ("add.adv_weight", "0.1", "add.adv_weight: '0.1'"),
        ("add.adv_weight", None, "add.adv_weight: None"),
        ("add.adv_weight", True, "add.adv_weight: True"),
        ("add.num_steps", 1.5, "add.num_steps: 1.5"),
        ("add.num_steps", 0, "add.num_steps: 0"),
        ("add.typo", 1, "add.typo: 1 is not a parameter"),
        ("typo", {}, "typo: {} is not a parameter"),
        ("add", [], "add: []"),
        ("teacher.lora_rank", 0, "teacher.lora_rank: 0"),
        ("teacher.learning_rate", 2.0, "teacher.learning_rate: 2.0"),
        ("teacher.validation_prompts", [], "teacher.validation_prompts: []"),
        ("teacher.prompt_template", "no caption", "teacher.prompt_template: 'no caption' must hold {caption}"),
        ("student.architecture", "bk_huge", "student.architecture: 'bk_huge'"),
        ("base.resolution_px", 65, "base.resolution_px: 65"),
        ("ingest.source", "web", "ingest.source: 'web'"),
        ("ingest.source", "hub", "ingest.hub_dataset: '' names nothing; ingest.source hub needs a data set"),
        ("ingest.path", "", "ingest.path: ''"),
        ("ingest.max_rejected", 1.5, "ingest.max_rejected: 1.5"),
        ("ingest.test_fraction", 0.49, None),
        ("add.timesteps", [1200, 749, 499, 249], "add.timesteps: 1200 is not below num_train_timesteps (1000)"),
        ("add.timesteps", [999, 700, 400, 100], "use [999, 749, 499, 249]"),
        ("add.timesteps", [999, 499], None),
        ("add.timestep_probabilities", [[0.25] * 4, [0.4, 0.2, 0.2, 0.2]], None),
        ("add.timestep_probabilities", [[0.5, 0.5]], "[0.5, 0.5] needs one probability for each of add.timesteps"),
        ("add.timestep_probabilities", [[0.5] * 4], "adds up to 2"),
        ("add.discriminators", ["latent", "latent"], "add.discriminators: ['latent', 'latent'] names one twice"),
        (
            "add.discriminator_blocks",
            ["mid_block", "mid_block"],
            "add.discriminator_blocks: ['mid_block', 'mid_block']",
        ),
        ("add.discriminator_timesteps", [10, 250, 10], "add.discriminator_timesteps: [10, 250, 10] names one twice"),
        ("add.pair_target", "guess", "add.pair_target: 'guess'"),
        ("add.solve_steps", 251, None),
        ("add.renoised_space", "feature", "add.renoised_space: 'feature'"),
        ("add.discriminator_scales", [1, 2], None),
        ("add.discriminator_scales", [2, 2], "add.discriminator_scales: [2, 2] names one twice"),
        ("sampling.teacher_steps", 1000, "sampling.teacher_steps: 1000"),
        ("evaluate.teacher_sweep", [4, 1000], "evaluate.teacher_sweep.1: 1000"),
        (
            "evaluate.student_sweep",
            [1, 61],
            "evaluate.student_sweep: 61 steps are not what sampling.student_scheduler ddim",
        ),
        ("samples.steps", [103], "samples.steps: 103 steps are not"),
        ("samples.steps", [3, 7, 1000], None),
        (
            "student.pool_steps",
            61,
            "student.pool_steps: 61 steps are not what DPM-Solver++ can do; use a divisor of 1000",
        ),
        ("student.pool_steps", 10, "student.pool_steps: 10 steps do not visit add.timesteps [999, 749, 499, 249]; use"),
        ("add.judged_fraction", 0.0, "add.judged_fraction: 0.0"),
        ("add.discriminators", [], "add.discriminators"),
        ("add.method", "gan", "add.method: 'gan'"),
        ("add.resolutions_px", [96, "128x64", "64x128"], None),
        ("add.resolutions_px", ["96by64"], "add.resolutions_px: '96by64' is neither a side nor WIDTHxHEIGHT"),
        ("add.resolutions_px", ["96x"], "add.resolutions_px: '96x' is neither"),
        ("add.resolutions_px", [100], "add.resolutions_px: 100 has a side that is no multiple of 8 from 32 to 1024"),
        ("add.resolutions_px", ["64x24"], "add.resolutions_px: '64x24' has a side"),
        ("add.resolutions_px", [96, "96x96"], "add.resolutions_px: [96, '96x96'] names a size twice"),
        ("add.resolutions_px", [64], "add.resolutions_px: [64] names a size twice, or base.resolution_px"),
        ("add.resolution_pool_size", 0, "add.resolution_pool_size: 0"),
        ("add.method", "consistency", None),
        ("add.consistency_steps", 50, None),
        ("add.consistency_delta", 0.0, "add.consistency_delta: 0.0"),
    ],
)
def test_values_are_checked(mini: Any, key: str, value: Any, message: str | None) -> None:
    changed = _with(mini, key, value)
    if message is None:
        parse_params(changed)
        return
    with pytest.raises(ParamsError, match=re.escape(message)):
        parse_params(changed)


def test_a_solve_has_a_timestep_for_every_step(mini: Any) -> None:
    solve = _with(mini, "add.pair_target", "solve")
    parse_params(_with(solve, "add.solve_steps", 250))
    with pytest.raises(ParamsError, match="251 steps do not fit below timestep 249; use at most 250"):
        parse_params(_with(solve, "add.solve_steps", 251))


@pytest.mark.parametrize("num_steps", [1, 30, 50, 60])
def test_consistency_is_learnt_at_the_timesteps_of_sampling(mini: Any, num_steps: int) -> None:
    """50, as in the paper, misses two of four; 60 is no divisor of 1000."""
    consistency = _with(mini, "add.method", "consistency")
    message = f"add.consistency_steps: {num_steps} equal steps .* use one of [4, 8, 20, 40, 100, 200, 500, 1000]"
    with pytest.raises(ParamsError, match=re.escape(message).replace(re.escape(".*"), ".*")):
        parse_params(_with(consistency, "add.consistency_steps", num_steps))


def test_one_picture_has_no_distribution(mini: Any) -> None:
    with pytest.raises(ParamsError, match=r"evaluate\.num_images: 1 .* use at least 2"):
        parse_params(_with(mini, "evaluate.num_images", 1))


@pytest.mark.parametrize(
    ("evaluation", "judge"),
    [
        ({"clip_score": f"{CLIP_L14.split('@')[0]}@other"}, "evaluate.clip_score"),
        ({"features": "clip"}, "evaluate.features"),
    ],
)
def test_no_student_is_judged_by_the_clip_that_taught_it(mini: Any, evaluation: dict[str, str], judge: str) -> None:
    mini["evaluate"].update(evaluation)
    parse_params(mini)  # it taught nobody
    mini["add"].update(image_text_network=CLIP_L14, image_text_weight=0.5)
    with pytest.raises(ParamsError, match=rf"add\.image_text_network: .* is also what {judge} judges by"):
        parse_params(mini)


def test_pictures_without_their_noise_are_no_pairs(mini: Any) -> None:
    pictures = _with(mini, "student.pool_source", "dataset")
    with pytest.raises(ParamsError, match=r"student\.knowledge_steps: .*pool_source dataset has none; use \d+"):
        parse_params(pictures)
    pictures = _with(pictures, "student.knowledge_steps", mini["student"]["num_steps"])
    with pytest.raises(ParamsError, match=r"add\.pair_weight: 1\.0 .* use 0, or add\.pair_target solve"):
        parse_params(pictures)
    parse_params(_with(pictures, "add.pair_weight", 0.0))
    parse_params(_with(pictures, "add.pair_target", "solve"))


def test_averaged_squares_are_large_enough_for_their_network(mini: Any) -> None:
    pixel = _with(_with(mini, "add.discriminators", ["pixel"]), "add.discriminator_scales", [1, 2])
    parse_params(pixel)
    with pytest.raises(ParamsError, match="4 leaves 16 px of squares of 64 px"):
        parse_params(_with(pixel, "add.discriminator_scales", [1, 4]))
    with pytest.raises(ParamsError, match="2 leaves 16 px of squares of 32 px"):
        parse_params(_with(pixel, "add.resolutions_px", ["96x32"]))


@pytest.mark.parametrize("source", ["dataset", "both"])
def test_further_sizes_have_no_real_pictures(mini: Any, source: str) -> None:
    changed = _with(_with(mini, "add.resolutions_px", [96]), "add.real_source", source)
    with pytest.raises(
        ParamsError, match=rf"^add\.resolutions_px: .* for add\.real_source {source}.*real_source teacher$"
    ):
        parse_params(changed)


@pytest.mark.parametrize(
    ("key", "value"),
    [("add.timesteps", [999, 666, 332]), ("evaluate.student_sweep", [1, 2, 3]), ("samples.steps", [4, 3])],
)
def test_lcm_takes_divisors_of_1000_only(mini: Any, key: str, value: list[int]) -> None:
    mini = _with(mini, "student.pool_steps", 12)  # visits three timesteps as well as four
    parse_params(_with(mini, key, value))
    lcm = _with(mini, "sampling.student_scheduler", "lcm")
    with pytest.raises(ParamsError, match=r"^student\.knowledge_steps: .* lcm leaves it between steps; use \d+$"):
        parse_params(lcm)
    lcm = _with(lcm, "student.knowledge_steps", mini["student"]["num_steps"])
    parse_params(lcm)
    with pytest.raises(
        ParamsError, match=f"^{key}: 3 steps are not what .* lcm can do; use a divisor of 1000, or ddim$"
    ):
        parse_params(_with(lcm, key, value))


def test_every_key_is_needed(mini: Any) -> None:
    for key in _keys(mini):
        section, _, name = key.partition(".")
        changed = copy.deepcopy(mini)
        del (changed[section] if name else changed)[name or section]
        with pytest.raises(ParamsError, match=re.escape(f"{key}: missing")):
            parse_params(changed)


def test_all_mistakes_are_told_at_once(mini: Any) -> None:
    changed = _with(_with(mini, "add.num_steps", 0), "teacher.lora_rank", "many")
    with pytest.raises(ParamsError, match=r"(?s)teacher\.lora_rank.*add\.num_steps"):
        parse_params(changed)


@pytest.mark.parametrize("content", ["", "[1, 2]", "add: {", "\x00"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(ParamsError):
        load_params(path)


def test_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no such file; copy a profile"):
        load_params(tmp_path / "params.yaml")


def test_numbers_as_dvc_writes_them_stay_numbers(tmp_path: Path) -> None:
    """`-S add.r1_weight=1e-6` is written as 1e-06, which YAML 1.1 reads as text."""
    text = (ROOT / "profiles" / "mini.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"r1_weight: \S+", "r1_weight: 1e-06", text))
    assert load_params(path).add.r1_weight == 1e-6


@pytest.mark.parametrize(
    ("num_steps", "timesteps"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249]), (3, [999, 666, 332])]
)
def test_trailing_timesteps(num_steps: int, timesteps: list[int]) -> None:
    assert trailing_timesteps(num_steps) == timesteps


def test_trailing_timesteps_are_those_of_diffusers() -> None:
    """Where its rounding takes a step too many (61), and where two ways to round differ (48), too."""
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    for num_steps in range(1, 101):
        scheduler.set_timesteps(num_steps)
        assert scheduler.timesteps.tolist() == trailing_timesteps(num_steps)


def _read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def _keys(values: Any) -> list[str]:
    return [key for name, section in values.items() for key in (name, *(f"{name}.{inner}" for inner in section))]


def _with(values: Any, key: str, value: Any) -> Any:
    changed = copy.deepcopy(values)
    section, _, name = key.partition(".")
    if name:
        changed[section][name] = value
    else:
        changed[section] = value
    return changed
