"""The dependencies of the stages on code and packages, written into dvc.yaml and packages.yaml."""

import io
from pathlib import Path
from typing import Any

from naruto_add.config import paths
from naruto_add.config.profiles import round_trip_yaml
from naruto_add.pipeline.imports import Closure, import_closure
from naruto_add.pipeline.packages import computing_packages, packages_file
from naruto_add.runtime.files import atomic_write_bytes

PIPELINE = Path("dvc.yaml")
CHECKS = frozenset(
    f"src/naruto_add/pipeline/{name}.py" for name in ("base_use", "hub", "requirements", "stage", "weights")
)
"""Modules that check before a stage begins. What only they import cannot change what the stage writes either."""
UNTRACKED = CHECKS | frozenset(
    {
        "src/naruto_add/config/load.py",
        "src/naruto_add/config/paths.py",
        "src/naruto_add/config/rules.py",
        "src/naruto_add/config/schema.py",
        "src/naruto_add/export/demo_template.py",
        "src/naruto_add/runtime/checkpoints.py",
        "src/naruto_add/runtime/errors.py",
        "src/naruto_add/runtime/extras.py",
        "src/naruto_add/runtime/process.py",
        "src/naruto_add/runtime/progress.py",
        "src/naruto_add/runtime/tracking.py",
        "stages/run.py",
    }
)
"""Modules that cannot change what a stage writes. Parameters are tracked as params, paths as deps and outs.

The one value that `config.schema` computes, the student's timesteps, comes from `config.constants`, which is tracked.
"""


def write_dependencies(root: Path) -> bool:
    """Write what each stage imports into dvc.yaml, and packages.yaml; everything else in dvc.yaml stays as it is.

    Code becomes `deps`, and packages become `params` of the file packages.yaml. Returns whether a file changed.
    """
    pipeline, packages = composed_dependencies(root)
    written = [_write(root / PIPELINE, pipeline), _write(root / paths.PACKAGES, packages)]
    return any(written)


def composed_dependencies(root: Path) -> tuple[str, str]:
    """The contents of dvc.yaml and packages.yaml that `write_dependencies` writes."""
    yaml = round_trip_yaml()
    pipeline = yaml.load(root / PIPELINE)
    names: set[str] = set()
    for stage, fields in pipeline["stages"].items():
        closure = import_closure(root, f"stages.{stage}", without=UNTRACKED, ends=CHECKS)
        packages = computing_packages(closure.packages)
        _set_code(fields, closure)
        _set_packages(fields, packages)
        names |= set(packages)
    stream = io.StringIO()
    yaml.dump(pipeline, stream)
    return stream.getvalue(), packages_file(names, root=root)


def _set_code(fields: Any, closure: Closure) -> None:
    """Replace the code among the deps, after all others. The list is changed in place, which keeps its comments."""
    if "deps" not in fields:
        _insert_after(fields, "params" if "params" in fields else "cmd", "deps")
    deps = fields["deps"]
    code = sorted(closure.files)
    if [dep for dep in deps if _is_code(dep)] == code:
        return
    for index in reversed(range(len(deps))):
        if _is_code(deps[index]):
            del deps[index]
    deps.extend(code)


def _set_packages(fields: Any, packages: list[str]) -> None:
    """Replace the packages among the params, after all others."""
    if packages and "params" not in fields:
        _insert_after(fields, "cmd", "params")
    params = fields.get("params", [])
    others = [item for item in params if not (isinstance(item, dict) and str(paths.PACKAGES) in item)]
    wanted = [*others, {str(paths.PACKAGES): packages}] if packages else others
    if list(params) != wanted:
        del params[len(others) :]
        params.extend(wanted[len(others) :])


def _insert_after(fields: Any, before: str, key: str) -> None:
    fields.insert(list(fields).index(before) + 1, key, [])


def _is_code(dep: str) -> bool:
    return dep.startswith(("src/", "stages/"))


def _write(path: Path, content: str) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return False
    atomic_write_bytes(path, content.encode())
    return True
