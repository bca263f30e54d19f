"""dvc.yaml says what the code does: the params of a stage are the sections that its script reads, its artifacts are the
paths that the script names, and its code and packages are its import closure (tests/pipeline/test_dependencies.py)."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from naruto_add.config import paths
from naruto_add.config.schema import Params

ROOT = Path(__file__).parent.parent
STAGES = ["inputs", "ingest", "teacher", "student", "add", "evaluate", "samples", "export", "report"]
WITHOUT_SECTION = {"inputs", "report"}
SHARED_SECTIONS = {"base", "sampling"}
WITHOUT_RESULT = {"tracking"}
"""Parameters that change no result, so that no stage runs again when they change."""
READS_ALL = {"report"}
"""Stages whose script passes on all parameters, to show them; params.yaml as a whole is a dep of them."""
DERIVED = {"sampling.student_timesteps": "sampling.student_steps"}
"""Properties of sections, and the keys that they are computed from."""
MANIFESTS = (paths.BASE_MANIFEST, paths.TOKENIZER_MANIFEST, paths.PICTURE_MANIFEST)
"""Stand for base.model and ingest.path, which DVC does not watch."""
IN_GIT = ("base/", "demo", "profiles/", "params.yaml", "requirements.lock")
"""Files that no stage writes."""


@dataclass(frozen=True)
class Declared:
    """One stage of dvc.yaml."""

    name: str
    fields: dict[str, Any]

    def paths(self, *keys: str) -> set[str]:
        return {_name(item) for key in keys for item in self.fields.get(key, [])}

    @property
    def artifacts(self) -> set[str]:
        found = self.paths("deps", "outs", "metrics", "plots")
        return {path for path in found if not _is_code(path) and not path.startswith(IN_GIT)}

    @property
    def params(self) -> set[str]:
        return {item for item in self.fields.get("params", []) if isinstance(item, str)}


def _declared() -> dict[str, Declared]:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    return {name: Declared(name, fields) for name, fields in stages.items()}


def _script(stage: str) -> Path:
    return ROOT / "stages" / f"{stage}.py"


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Declared:
    return _declared()[request.param]


def test_the_stages_are_the_sections() -> None:
    assert list(_declared()) == STAGES
    assert set(Params.model_fields) == {*STAGES, *SHARED_SECTIONS, *WITHOUT_RESULT} - WITHOUT_SECTION


def test_a_stage_is_described_and_its_script_is_run_from_the_working_directory(stage: Declared) -> None:
    assert stage.fields["desc"].strip()
    assert stage.fields["cmd"] == f"python -m stages.{stage.name}"


def test_no_stage_reads_the_section_of_another(stage: Declared) -> None:
    read = {key.partition(".")[0] for key in keys_read(_script(stage.name))}
    assert read - SHARED_SECTIONS <= ({"ingest", "teacher"} if stage.name == "inputs" else {stage.name})


def test_params_are_the_keys_read(stage: Declared) -> None:
    if stage.name in READS_ALL:
        assert paths.PARAMS.as_posix() in stage.paths("deps")
    else:
        assert stage.params == keys_read(_script(stage.name))


@pytest.mark.parametrize("stage_name", ["teacher", "student", "add"])
def test_checkpoints_belong_to_all_parameters_and_inputs_of_the_stage(stage_name: str) -> None:
    """Otherwise a run could resume the checkpoint of another configuration."""
    script = _script(stage_name)
    call = _call(script, "checkpoint_dir")
    assert _keys(_arguments(script, call)) == keys_read(script)
    inputs = {path for path in _declared()[stage_name].paths("deps") if not _is_code(path)}
    assert _paths(call) == inputs


@pytest.mark.parametrize("stage_name", ["teacher", "student", "add"])
def test_trainings_are_in_the_run_cache(stage_name: str) -> None:
    """DVC does not cache runs of a stage that has outs in Git, except metrics and plots: going back would retrain."""
    outs = _declared()[stage_name].fields["outs"]
    assert [item for item in outs if isinstance(item, dict)] == []


def test_artifacts_are_the_paths_named(stage: Declared) -> None:
    named = paths_named(_script(stage.name))
    curves = {path for path in named if path == f"{paths.CURVES.as_posix()}/{stage.name}.tsv"}
    named |= {path.replace(".tsv", "_validation.tsv") for path in curves}  # training.curves writes both
    named = {path for path in named if not path.startswith(IN_GIT)}
    through_dvc = {path.as_posix() for path in MANIFESTS}
    undeclared = {path for path in named if not _covered(path, stage.artifacts)}
    unnamed = {path for path in stage.artifacts - through_dvc if not any(_overlap(path, n) for n in named)}
    assert (undeclared, unnamed) == (set(), set())


def test_whoever_loads_the_base_model_depends_on_its_manifest(stage: Declared) -> None:
    manifests = {paths.BASE_MANIFEST.as_posix(), paths.TOKENIZER_MANIFEST.as_posix()}
    loads_base = "base" in stage.params and stage.name != "inputs"
    expected = {paths.BASE_MANIFEST.as_posix()} if loads_base else set()
    expected |= {paths.TOKENIZER_MANIFEST.as_posix()} if stage.name == "ingest" else set()
    assert stage.paths("deps") & manifests == expected


def test_dvc_hashes_no_place_that_a_parameter_names(stage: Declared) -> None:
    """It would wait for a named pipe forever, and stop at a broken link; `ingest` depends on a manifest."""
    assert [path for path in stage.paths("deps") if "${" in path] == []
    assert (paths.PICTURE_MANIFEST.as_posix() in stage.paths("deps")) == (stage.name == "ingest")


def test_no_two_stages_write_the_same_place() -> None:
    written = [(stage.name, path) for stage in _declared().values() for path in _written(stage)]
    clashes = [(a, b) for index, a in enumerate(written) for b in written[index + 1 :] if _overlap(a[1], b[1])]
    assert clashes == []


def test_everything_read_is_written_by_an_earlier_stage() -> None:
    written: set[str] = set()
    for stage in _declared().values():
        reads = {path for path in stage.paths("deps") if not _is_code(path) and not path.startswith(IN_GIT)}
        unwritten = {path for path in reads if not any(_overlap(path, out) for out in written)}
        assert unwritten == set(), stage.name
        written |= set(_written(stage))


def test_the_checks_of_scripts_find_keys_and_paths(tmp_path: Path) -> None:
    script = tmp_path / "add.py"
    script.write_text(
        "def main(params):\n"
        "    from naruto_add import direct\n"
        "    some = Settings(seed=params.base.seed)\n"
        "    folder = checkpoint_dir('add', params=[some, params.add, params.base.autocast], deps=[paths.DATASET])\n"
        "    direct.f(params.add, params.student.seed, params.add.seed, paths.CURVES / 'add.tsv')\n"
        "    direct.g(params.sampling.student_timesteps)\n"
    )
    assert keys_read(script) == {"add", "base.autocast", "base.seed", "student.seed", "sampling.student_steps"}
    assert paths_named(script) == {"data/dataset", "metrics/curves/add.tsv"}
    assert _keys(_arguments(script, _call(script, "checkpoint_dir"))) == {"add", "base.autocast", "base.seed"}
    assert _paths(_call(script, "checkpoint_dir")) == {"data/dataset"}


def test_the_checks_of_scripts_find_keys_that_a_shared_function_reads(tmp_path: Path) -> None:
    script = tmp_path / "add.py"
    script.write_text(
        "def main(params):\n"
        "    from stages.distillation import distillation_settings\n"
        "    settings = distillation_settings(params)\n"
        "    checkpoint_dir('add', params=[settings], deps=[])\n"
    )
    assert {"base.autocast", "sampling.pool_steps", "sampling.student_steps"} <= keys_read(script)
    assert _keys(_arguments(script, _call(script, "checkpoint_dir"))) == keys_read(script)


def keys_read(script: Path) -> set[str]:
    """`add` if the section is read as a whole, `add.num_steps` if only this key is."""
    return _keys(_outermost(_tree(script))) - WITHOUT_RESULT


def paths_named(script: Path) -> set[str]:
    """The values of all `paths.X` and `paths.X / "name"` in the script."""
    return _paths(_tree(script))


def _tree(script: Path) -> ast.AST:
    """The script, in which what functions of `stages` return stands for their calls, whose argument is `params`."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    returned: dict[str, ast.expr | None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages.") and node.level == 0:
            shared = ast.parse((ROOT / f"{str(node.module).replace('.', '/')}.py").read_text(encoding="utf-8"))
            functions = [each for each in shared.body if isinstance(each, ast.FunctionDef)]
            returned |= {each.name: each.body[-1].value for each in functions if isinstance(each.body[-1], ast.Return)}
    return _Inlined(returned).visit(tree)


class _Inlined(ast.NodeTransformer):
    def __init__(self, returned: Mapping[str, ast.expr | None]) -> None:
        self._returned = returned

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return (self._returned.get(node.func.id) if isinstance(node.func, ast.Name) else None) or node


def _call(script: Path, function: str) -> ast.Call:
    """The only call of this function."""
    calls = [node for node in ast.walk(_tree(script)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == function]
    return call


def _arguments(script: Path, call: ast.Call) -> Iterator[ast.expr]:
    """The outermost expressions of the call; a local variable stands for what the script assigns to it."""
    names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
    yield from _outermost(call)
    for node in ast.walk(_tree(script)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names:
            yield from _outermost(node.value)


def _keys(nodes: Iterable[ast.expr]) -> set[str]:
    chains = {chain for node in nodes if (chain := _chain(node)) and chain[0] == "params"}
    keys = {".".join(chain[1:3]) for chain in chains if len(chain) > 1}
    return {DERIVED.get(key, key) for key in keys if "." not in key or key.partition(".")[0] not in keys}


def _paths(tree: ast.AST) -> set[str]:
    expressions = [node for node in _outermost(tree) if _starts_with_paths(node)]
    values = [eval(compile(ast.Expression(node), "script", "eval"), {"paths": paths}) for node in expressions]
    return {value.as_posix() for value in values if isinstance(value, Path)}


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


def _outermost(tree: ast.AST) -> Iterator[ast.expr]:
    """Attribute chains, and paths joined by `/`, that are not part of a larger one."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if (isinstance(node, ast.Attribute) and _chain(node)) or (
            isinstance(node, ast.BinOp) and _starts_with_paths(node)
        ):
            yield node
        else:
            waiting += ast.iter_child_nodes(node)


def _chain(node: ast.AST) -> tuple[str, ...]:
    """("params", "add", "seed") for `params.add.seed`; empty for any other expression."""
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Attribute(value=value, attr=attribute):
            inner = _chain(value)
            return (*inner, attribute) if inner else ()
    return ()


def _starts_with_paths(node: ast.AST) -> bool:
    match node:
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant()):
            return _starts_with_paths(left)
        case ast.Attribute():
            return _chain(node)[:1] == ("paths",)
    return False
