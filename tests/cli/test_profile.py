"""Profiles are listed, shown and used."""

from pathlib import Path

from click.shell_completion import ShellComplete

from naruto_add.cli.main import main
from naruto_add.config.load import load_params
from naruto_add.config.profiles import compose_profile, profile_names
from tests.cli.run import run_error, run_ok


def test_list_marks_the_current_profile(project_folder: Path) -> None:
    names = profile_names(project_folder)
    run_ok("profile", "use", "sd15")
    assert run_ok("profile", "list").splitlines() == [f"{'*' if name == 'sd15' else ' '} {name}" for name in names]


def test_list_marks_no_profile_if_params_yaml_is_missing_or_has_other_values(project_folder: Path) -> None:
    path = project_folder / "params.yaml"
    path.write_text(path.read_text().replace("adv_weight: 20.0", "adv_weight: 0.7"))
    changed = run_ok("profile", "list")
    path.unlink()
    assert run_ok("profile", "list") == changed
    assert changed.split() == profile_names(project_folder)


def test_show_prints_a_profile_or_params_yaml(project_folder: Path) -> None:
    assert run_ok("profile", "show", "sd15") == compose_profile("sd15", root=project_folder)
    assert run_ok("profile", "show") == (project_folder / "params.yaml").read_text()


def test_use_writes_params_yaml(project_folder: Path) -> None:
    assert run_ok("profile", "use", "sd15") == "params.yaml: profile sd15\n"
    assert load_params(project_folder / "params.yaml").base.model.startswith("stable-diffusion")


def test_use_overwrites_own_values_only_by_force(project_folder: Path) -> None:
    path = project_folder / "params.yaml"
    path.write_text(path.read_text().replace("adv_weight: 20.0", "adv_weight: 0.7"))
    assert load_params(path).add.adv_weight == 0.7
    assert "--force" in run_error("profile", "use", "mini")
    assert load_params(path).add.adv_weight == 0.7
    run_ok("profile", "use", "mini", "--force")
    assert load_params(path).add.adv_weight == 20.0


def test_an_unknown_name_lists_the_profiles(project_folder: Path) -> None:
    assert "'maxi' is not a profile; profiles has mini, sd15, " in run_error("profile", "use", "maxi")


def test_names_are_completed(project_folder: Path) -> None:
    completion = ShellComplete(main, {}, "naruto-add", "_NARUTO_ADD_COMPLETE")
    assert [item.value for item in completion.get_completions(["profile", "use"], "mi")] == ["mini"]
