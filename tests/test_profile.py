"""Switching profiles loses nothing and leaves nothing half done."""

from pathlib import Path

import pytest

from naruto_add.params import ParamsError
from naruto_add.profile import main, switch_profile

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    for path in (ROOT / "profiles").glob("*.yaml"):
        (tmp_path / "profiles" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_copies_to_the_byte(project: Path) -> None:
    for name in ("sd15", "mini"):
        switch_profile(name, root=project, force=False)
        assert (project / "params.yaml").read_bytes() == (project / "profiles" / f"{name}.yaml").read_bytes()
    assert {path.name for path in project.iterdir()} == {"params.yaml", "profiles"}


def test_unknown_name_lists_those_there(project: Path) -> None:
    with pytest.raises(ParamsError, match=r"'huge' is not a profile; .*profiles has mini, sd15"):
        switch_profile("huge", root=project, force=False)


@pytest.mark.parametrize("name", ["../params", "mini.yaml", "", "Mini"])
def test_names_are_not_paths(project: Path, name: str) -> None:
    with pytest.raises(ParamsError, match="is not a profile"):
        switch_profile(name, root=project, force=False)


def test_edits_are_kept_unless_forced(project: Path) -> None:
    params = project / "params.yaml"
    edited = (project / "profiles" / "mini.yaml").read_text().replace("adv_weight: ", "adv_weight: 0")
    params.write_text(edited)
    with pytest.raises(ParamsError, match=r"values of your own, which would be lost"):
        switch_profile("sd15", root=project, force=False)
    assert params.read_text() == edited
    switch_profile("sd15", root=project, force=True)
    assert params.read_bytes() == (project / "profiles" / "sd15.yaml").read_bytes()


def test_a_profile_with_mistakes_is_refused(project: Path) -> None:
    (project / "profiles" / "wrong.yaml").write_text("base: {}\n")
    with pytest.raises(ParamsError, match=r"base\.model: missing"):
        switch_profile("wrong", root=project, force=False)
    assert not (project / "params.yaml").exists()


def test_command_line(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(project)
    main(["mini"])
    assert "params.yaml is now profile mini" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: 'huge' is not a profile"):
        main(["huge"])
