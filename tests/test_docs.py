"""Documents agree with the code: their commands, links, paths, parameters and words are real."""

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from dvc.cli import DvcParserError, parse_args
from pydantic import BaseModel
from ruamel.yaml import YAML

from naruto_add.config import paths
from naruto_add.config.load import parse_params, read_yaml
from naruto_add.config.schema import Params
from tests.code_map import MAP, code_map

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "base/README.md")
DOCUMENTS = sorted([*(ROOT / name for name in PAGES), *(ROOT / "docs").glob("*.md")])
PROFILES = sorted([ROOT / "params.yaml", *(ROOT / "profiles").rglob("*.yaml"), *(ROOT / "base").glob("*.yaml")])
SOURCES = sorted(file for folder in ("src", "stages", "base/recipe") for file in (ROOT / folder).rglob("*.py"))
HISTORY = ROOT / "CHANGELOG.md"
"""It may name what is gone."""

PROGRAMS = ("naruto-add", "dvc", "make", "python", "accelerate")
QUICK_COMMANDS = ("profile", "report", "summary")
PREFIXES = (r"uv run --no-sync ", r"\.venv/bin/")
PLACEHOLDER = "NAME"
SECTIONS = "|".join(Params.model_fields)
KEY = re.compile(rf"(?P<key>(?:{SECTIONS})(?:\.[a-z_0-9]+)+)(?:(?:: |=)(?P<value>.+))?")
FILE = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
OTHER_WORDS = re.compile(
    r"""\b(judge[sd]?|judging|verdicts?|critics?|mend(?:s|ed|ing)?|anew|hurried|unseen|riddles?|the\ latter|is\ asked
    |(?:may|can)\ be\ had|what\ sees|after\ that:|teacher's\ way)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words for which docs/glossary.md has another, or that are not clear by themselves."""
HELD_OUT = re.compile(r"held[ -]out(?! pool samples)", re.IGNORECASE)
"""The splits of the data set are called training, validation and test."""


def test_the_list_of_files_is_up_to_date() -> None:
    assert MAP.read_text(encoding="utf-8") == code_map(), "run `python -m tests.code_map`"


def test_the_tree_in_the_readme_names_every_folder_and_package() -> None:
    tree = _text("README.md").partition("## Where things are")[2].split("```")[1]
    named = set(re.findall(r"^ *([\w/ .]+?/)(?= )", tree, flags=re.MULTILINE))
    named |= {name for names in named for name in names.split()}
    packages = {f"{path.parent.name}/" for path in (ROOT / "src/naruto_add").glob("*/__init__.py")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {f"{_first(line)}/" for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    assert packages | (folders - {"src/"}) <= named


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path != MAP], ids=lambda path: path.name)
def test_commands_can_be_parsed_by_the_programs_that_they_call(document: Path) -> None:
    for command in commands(document):
        _check_command(command)


def test_commands_that_take_no_time_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with this repository's pipeline, profiles and metrics."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    for name in ("dvc.yaml", "params.yaml", "requirements.lock"):
        shutil.copy2(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    named = {tuple(command[1:]) for document in DOCUMENTS for command in commands(document) if _is_quick(command)}
    assert {("summary",), ("report",), ("report", "--md"), ("profile", "use", "mini")} <= named
    for arguments in sorted(named):
        result = CliRunner().invoke(_cli(), arguments)
        assert result.exit_code == 0, f"naruto-add {shlex.join(arguments)}: {result.output}"


@pytest.mark.parametrize("document", [*DOCUMENTS, HISTORY], ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name}: {target}"
        assert not anchor or anchor in _anchors(linked), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_are_those_of_files_or_of_outputs_of_the_pipeline(document: Path) -> None:
    places = [document.parent, ROOT, ROOT / "src/naruto_add", ROOT / "metrics/grids"]
    for text in code_spans(document):
        if FILE.fullmatch(text) and _first(text) in _top_level():
            exists = any((place / text).exists() for place in places)
            assert exists or _is_made(text), f"{document.name}: {text} does not exist, and no stage writes it"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_parameters_exist_and_accept_the_values_that_are_named(document: Path) -> None:
    for text in code_spans(document):
        if (found := KEY.fullmatch(text)) and not text.endswith((".json", ".tsv", ".png", ".py")):
            assert _is_parameter(found["key"]), f"{document.name}: {text}"
            _check_settings([f"{found['key']}={found['value']}"] if found["value"] else [])


@pytest.mark.parametrize("file", [*DOCUMENTS, *PROFILES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_glossary(file: Path) -> None:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        found = OTHER_WORDS.search(line) or (HELD_OUT.search(line) if file not in (*SOURCES, MAP) else None)
        assert not found, f"{file.name}:{number}: {found and found[0]!r} is not one of the glossary's words: {line}"


def test_the_changelog_names_the_new_parameters() -> None:
    table = HISTORY.read_text(encoding="utf-8").partition("| old parameter | new parameter |")[2].partition("\n\n")[0]
    new = [row.split("|")[2] for row in table.strip().splitlines()[1:]]
    keys = [key for cell in new for key in re.findall(r"`([a-z_.]+)`", cell) if "." in key]
    assert keys
    for key in keys:
        assert _is_parameter(key) or _is_parameter(f"add.{key}"), key


def commands(document: Path) -> Iterator[list[str]]:
    """The commands in code, split into words; from `sh` blocks and from inline code."""
    text = document.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    for line in [*blocks.splitlines(), *code_spans(document)]:
        command = re.sub("|".join(f"^{prefix}" for prefix in PREFIXES), "", line.strip())
        if command.startswith(tuple(f"{program} " for program in PROGRAMS)):
            yield shlex.split(command, comments=True)


def code_spans(document: Path) -> list[str]:
    """Inline code, without that in blocks."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [span for span in re.findall(r"`([^`\n]+)`", text) if PLACEHOLDER not in span]


def _is_quick(command: list[str]) -> bool:
    """Whether this command of `naruto-add` needs neither networks nor a hub."""
    program, *arguments = command
    if program != "naruto-add" or arguments == ["profile"]:  # a mention of the group, which needs a sub-command
        return False
    return arguments[0] in QUICK_COMMANDS or arguments[-1] == "--help"


def _check_command(command: list[str]) -> None:
    line = shlex.join(command)
    match command:
        case ["naruto-add", *arguments]:
            _check_cli(arguments)
        case ["dvc", *arguments]:
            try:
                parsed = parse_args(arguments)
            except DvcParserError:
                pytest.fail(line)
            _check_settings(getattr(parsed, "set_param", None) or [])
        case ["make", *targets]:
            names = {target for target in targets if "=" not in target}
            assert names <= set(re.findall(r"^([a-z0-9-]+):", _text("Makefile"), flags=re.MULTILINE)), line
        case ["python", "-m", module, *_] | ["accelerate", "launch", *_, "-m", module]:
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), line
        case ["accelerate", "launch"]:
            return
        case ["python", script]:
            assert (ROOT / script).exists(), line
        case _:
            pytest.fail(f"{line}: cannot be checked")


def _check_cli(arguments: list[str]) -> None:
    """Parse as the console script would, without running anything."""
    command, is_mention = _cli(), len(arguments) == 1
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"naruto-add has no command {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    try:
        command.make_context(command.name, list(arguments), resilient_parsing=is_mention)
    except click.exceptions.Exit:  # --help
        return
    except click.UsageError as error:
        pytest.fail(f"{command.name} {shlex.join(arguments)}: {error.format_message()}")


@cache
def _cli() -> click.Command:
    """The command of `[project.scripts]`."""
    target = tomllib.loads(_text("pyproject.toml"))["project"]["scripts"]["naruto-add"]
    module, _, name = target.partition(":")
    found: click.Command = getattr(__import__(module, fromlist=[name]), name)
    return found


def _check_settings(settings: list[str]) -> None:
    """Together, the values that `-S` sets are accepted; of several values for a sweep, the first."""
    changed = read_yaml(ROOT / "params.yaml")
    for setting in settings:
        key, _, values = setting.partition("=")
        assert _is_parameter(key), setting
        *sections, name = key.split(".")
        section = reduce(getitem, sections, changed)
        first = values if values.startswith("[") else values.partition(",")[0]
        section[name] = YAML(typ="safe").load(first)
    parse_params(changed)


def _is_parameter(key: str) -> bool:
    model: Any = Params
    for part in key.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            return False
        model = model.model_fields[part].annotation
    return True


def _is_made(path: str) -> bool:
    """Whether this is an output of a stage, or in one, or the folder of one, or what another command writes."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    names = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    plain = path.rstrip("/")
    pages = ("demo/dist", "demo/dist/page.html", "demo/dist/page_beside.html")
    made_by_commands = (paths.ABLATION_METRICS.as_posix(), paths.ABLATION_GRID.as_posix(), *pages)
    folders = (".checkpoints", ".checkpoints/pool", "models", "data", "demo/dist")
    return plain in (*folders, *made_by_commands) or any(
        plain == name or plain.startswith(f"{name}/") or name.startswith(f"{plain}/") for name in names
    )


@cache
def _top_level() -> set[str]:
    """The first parts of paths in this repository or in the package, and of what the pipeline makes."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    made = {".checkpoints", "report.html"}
    packages = {path.name for path in (ROOT / "src/naruto_add").iterdir()}
    return {_first(line) for line in tracked.splitlines()} | made | packages


def _first(path: str) -> str:
    return path.partition("/")[0]


def _anchors(document: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
