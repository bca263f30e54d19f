"""The import closure of a module: the files of the project and the other packages that running it can load."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCES = {"naruto_add": "src", "stages": "."}
"""The project's top packages, and the folders that contain them."""


@dataclass(frozen=True)
class Closure:
    """Files relative to the project's root, and top-level names of the other packages that they import."""

    files: frozenset[str]
    packages: frozenset[str]


def import_closure(
    root: Path,
    module: str,
    *,
    without: frozenset[str] = frozenset(),
    ends: frozenset[str] = frozenset(),
    sources: Mapping[str, str] = SOURCES,
) -> Closure:
    """Everything that `module` imports, directly or not, at the top of a file or in a function.

    Imports of the files in `ends`, which belong to `without`, are not followed.

    Empty files are left out, and so are the files in `without`, with what only they import from other packages. A file
    that is not Python belongs to the module in its folder whose name it begins with: `grid_font.ttf` to `grid.py`.
    `sources` are the packages whose imports are followed, and the folders that contain them.
    """
    files: set[Path] = set()
    packages: set[str] = set()
    waiting = _module_files(root, module, sources)
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        if file.relative_to(root).as_posix() in ends:
            continue
        names = set(_imported_names(file))
        waiting += [found for name in names for found in _module_files(root, name, sources)]
        if file.relative_to(root).as_posix() not in without:
            packages |= {name.partition(".")[0] for name in names} - sources.keys() - sys.stdlib_module_names
    found = {path for file in files for path in (file, *_data_files(file)) if path.stat().st_size}
    return Closure(frozenset(path.relative_to(root).as_posix() for path in found) - without, frozenset(packages))


def _module_files(root: Path, module: str, sources: Mapping[str, str]) -> list[Path]:
    """The module's file and the `__init__.py` of the packages around it; nothing for modules of other projects."""
    parts = module.split(".")
    if parts[0] not in sources:
        return []
    top = root / sources[parts[0]]
    packages = [top.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    return [file for file in (*packages, top.joinpath(*parts).with_suffix(".py")) if file.is_file()]


def _imported_names(file: Path) -> Iterator[str]:
    """Modules, and names imported from modules, which may be modules themselves."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _data_files(file: Path) -> list[Path]:
    prefixes = (f"{file.stem}.", f"{file.stem}_")
    return [
        path for path in file.parent.iterdir() if path.name.startswith(prefixes) and path.suffix not in {".py", ".pyc"}
    ]
