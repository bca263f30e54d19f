"""dvc.yaml says what the code does: a stage's code deps are its import closure, its params are the sections it reads,
and its artifacts are the paths that its script names."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from naruto_add import paths
from naruto_add.params import Params

ROOT = Path(__file__).parent.parent
STAGES = ["ingest", "teacher", "student", "add", "evaluate", "samples", "export", "report"]
UNCONFIGURED = {"report"}
"""Stages without a section: this one shows what is there."""
SHARED_SECTIONS = {"base", "sampling"}

UNTRACKED = {"src/naruto_add/params.py", "src/naruto_add/params_rules.py", "src/naruto_add/paths.py"}
"""Types, ranges and places: values are tracked as params, places as deps and outs."""
DATA_FILES = {
    "src/naruto_add/grid.py": {"src/naruto_add/grid_font.ttf"},
    "src/naruto_add/report.py": {"src/naruto_add/report.html"},
}
"""What a module reads from beside it."""
BESIDE = ("base/", "profiles/", "params.yaml", "requirements.lock")
"""Artifacts in Git that no stage makes; `base.model` names the first."""


@dataclass(frozen=True)
class Declared:
    """One stage of dvc.yaml."""

    name: str
    fields: dict[str, Any]

    def paths(self, *keys: str) -> set[str]:
        return {_name(item) for key in keys for item in self.fields.get(key, [])}

    @property
    def code(self) -> set[str]:
        return {path for path in self.paths("deps") if _is_code(path)}

    @property
    def artifacts(self) -> set[str]:
        found = self.paths("deps", "outs", "metrics", "plots")
        return {path for path in found if not _is_code(path) and not path.startswith(BESIDE)}

    @property
    def params(self) -> set[str]:
        items = self.fields.get("params", [])
        return {key for item in items for key in (item["params.yaml"] if isinstance(item, dict) else [item])}


@pytest.mark.parametrize("stage", ["teacher", "student", "add"])
def test_trainings_stay_in_the_run_cache(stage: str) -> None:
    """DVC leaves a stage out that has outs in Git, unless these are metrics or plots; going back would then retrain."""
    outs = _declared(ROOT)[stage].fields["outs"]
    assert [item for item in outs if isinstance(item, dict)] == []


@pytest.mark.parametrize("stage", ["teacher", "student", "add"])
def test_checkpoints_are_keyed_by_all_parameters_that_the_stage_reads(stage: str) -> None:
    script = ROOT / "stages" / f"{stage}.py"
    assert keyed(script) == sections_read(script)


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Declared:
    return _declared(ROOT)[request.param]


def test_the_stages_are_the_sections() -> None:
    assert list(_declared(ROOT)) == STAGES
    assert set(Params.model_fields) == {*STAGES, *SHARED_SECTIONS} - UNCONFIGURED


def test_stage_is_described_and_run_from_the_copy(stage: Declared) -> None:
    assert stage.fields["desc"].strip()
    assert stage.fields["cmd"] == f"python -m stages.{stage.name}"


def test_code_deps_are_the_import_closure(stage: Declared) -> None:
    assert code_problems(ROOT, stage) == []


def test_params_are_the_sections_read(stage: Declared) -> None:
    assert stage.params == sections_read(ROOT / "stages" / f"{stage.name}.py")


def test_artifacts_are_the_paths_named(stage: Declared) -> None:
    named = paths_named(ROOT / "stages" / f"{stage.name}.py") - {str(paths.PARAMS)}
    curves = {path for path in named if path == f"{paths.CURVES.as_posix()}/{stage.name}.tsv"}
    named |= {path.replace(".tsv", "_validation.tsv") for path in curves}  # training.loop puts one beside the other
    named = {path for path in named if not path.startswith(BESIDE)}
    templates = {path for path in stage.artifacts if "${" in path}
    uncovered = {path for path in named if not _covered(path, stage.artifacts)}
    unnamed = {path for path in stage.artifacts - templates if not any(_overlap(path, other) for other in named)}
    assert (uncovered, unnamed) == (set(), set())


def test_no_two_stages_write_the_same_place() -> None:
    written = [(stage.name, path) for stage in _declared(ROOT).values() for path in _written(stage)]
    clashes = [(a, b) for i, a in enumerate(written) for b in written[i + 1 :] if _overlap(a[1], b[1])]
    assert clashes == []


def test_everything_read_is_written_by_a_stage_before() -> None:
    written: set[str] = set()
    for stage in _declared(ROOT).values():
        reads = {path for path in stage.paths("deps") if not _is_code(path) and not path.startswith(BESIDE)}
        made_here = {path for path in reads if "${" not in path}
        assert {path for path in made_here if not any(_overlap(path, out) for out in written)} == set(), stage.name
        written |= set(_written(stage))


def test_contract_sees_mistakes(tmp_path: Path) -> None:
    """The checks above, on a project with one mistake of each kind."""
    library = tmp_path / "src" / "naruto_add"
    (library / "sub").mkdir(parents=True)
    (tmp_path / "stages").mkdir()
    for file in ("__init__.py", "sub/__init__.py"):
        (library / file).touch()
    (tmp_path / "stages" / "__init__.py").touch()
    (library / "direct.py").write_text("def f():\n    from naruto_add.sub import hidden\n")
    (library / "sub" / "hidden.py").write_text("import torch\n")
    (library / "unused.py").touch()
    script = tmp_path / "stages" / "add.py"
    script.write_text(
        "from naruto_add import direct, paths\n"
        "params = load_params(paths.PARAMS)\n"
        "direct.f(params.add, params.student.seed, params.add.seed, paths.CURVES / 'add.tsv')\n"
    )
    complete = ["stages/__init__.py", "stages/add.py", "src/naruto_add/direct.py", "src/naruto_add/sub"]
    assert code_problems(tmp_path, Declared("add", {"deps": complete})) == []
    assert code_problems(tmp_path, Declared("add", {"deps": complete[:-1]})) == [
        "add lacks src/naruto_add/sub/hidden.py"
    ]
    assert code_problems(tmp_path, Declared("add", {"deps": [*complete, "src/naruto_add/unused.py"]})) == [
        "add does not import src/naruto_add/unused.py"
    ]
    assert sections_read(script) == {"add", "student.seed"}
    assert paths_named(script) == {"params.yaml", "metrics/curves/add.tsv"}


def code_problems(root: Path, stage: Declared) -> list[str]:
    """Files imported but not declared, and files declared but not imported."""
    needed = import_closure(root, f"stages.{stage.name}") - UNTRACKED
    needed |= {file for module in needed for file in DATA_FILES.get(module, ())}
    declared = {file for dep in stage.code for file in _files(root, dep)}
    lacking = [f"{stage.name} lacks {file}" for file in sorted(needed - declared)]
    return lacking + [f"{stage.name} does not import {file}" for file in sorted(declared - needed)]


def import_closure(root: Path, module: str) -> set[str]:
    """Every non-empty file of the project that running this module loads, imports inside functions included."""
    seen: set[Path] = set()
    waiting = [*_module_files(root, module)]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += [found for name in _imported(file) for found in _module_files(root, name)]
    return {file.relative_to(root).as_posix() for file in seen if file.stat().st_size or "stages" in file.parts}


def sections_read(script: Path) -> set[str]:
    """`add` where the section is read whole, `add.timesteps` where only the key is."""
    return _sections(_outermost(script))


def _sections(nodes: Iterable[ast.expr]) -> set[str]:
    chains = {chain for node in nodes if (chain := _chain(node)) and chain[0] == "params"}
    keys = {".".join(chain[1:3]) for chain in chains if len(chain) > 1}
    return {key for key in keys if key.partition(".")[0] not in keys or "." not in key}


def paths_named(script: Path) -> set[str]:
    """Values of all `paths.X` and `paths.X / "name"` in the script."""
    expressions = [node for node in _outermost(script) if _rooted_in_paths(node)]
    code = [compile(ast.Expression(node), str(script), "eval") for node in expressions]
    values = [eval(item, {"paths": paths}) for item in code]
    return {value.as_posix() for value in values if isinstance(value, Path)}


def keyed(script: Path) -> set[str]:
    """The parameters in the call of `checkpoint_dir`, without which a run might resume another configuration's."""
    calls = [node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "checkpoint_dir"]
    inside = ast.Module([ast.Expr(call) for call in found], [])
    return _sections(_outermost_of(inside))


def _declared(root: Path) -> dict[str, Declared]:
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    return {name: Declared(name, fields) for name, fields in stages.items()}


def _written(stage: Declared) -> Iterator[str]:
    yield from sorted(stage.paths("outs", "metrics", "plots"))


def _name(item: Any) -> str:
    return next(iter(item)) if isinstance(item, dict) else item


def _is_code(path: str) -> bool:
    return path.startswith(("src/", "stages/"))


def _covered(path: str, by: Iterable[str]) -> bool:
    return any(path == other or path.startswith(f"{other}/") for other in by)


def _overlap(one: str, other: str) -> bool:
    return _covered(one, [other]) or _covered(other, [one])


def _files(root: Path, dep: str) -> set[str]:
    path = root / dep
    assert path.exists(), f"{dep} does not exist"
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return {file.relative_to(root).as_posix() for file in files if file.stat().st_size or path.is_file()}


def _module_files(root: Path, module: str) -> list[Path]:
    """The module's file and those of the packages around it."""
    parts = module.split(".")
    if parts[0] not in {"naruto_add", "stages"}:
        return []
    top = root / "src" if parts[0] == "naruto_add" else root
    packages = [top.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    return [file for file in (*packages, top.joinpath(*parts).with_suffix(".py")) if file.is_file()]


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _outermost(script: Path) -> Iterator[ast.expr]:
    """Attribute chains and quotients that are not part of a larger one."""
    return _outermost_of(ast.parse(script.read_text(encoding="utf-8")))


def _outermost_of(tree: ast.AST) -> Iterator[ast.expr]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if (isinstance(node, ast.Attribute) and _chain(node)) or (
            isinstance(node, ast.BinOp) and _rooted_in_paths(node)
        ):
            yield node
        else:
            waiting += ast.iter_child_nodes(node)


def _chain(node: ast.AST) -> tuple[str, ...]:
    """("params", "add", "seed") of `params.add.seed`; nothing of any other expression."""
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Attribute(value=value, attr=attribute):
            inner = _chain(value)
            return (*inner, attribute) if inner else ()
    return ()


def _rooted_in_paths(node: ast.AST) -> bool:
    match node:
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant()):
            return _rooted_in_paths(left)
        case ast.Attribute():
            return _chain(node)[:1] == ("paths",)
    return False
