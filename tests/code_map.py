"""docs/files.md, which has one line for every source file: `python -m tests.code_map` writes it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAP = ROOT / "docs" / "files.md"
FOLDERS = ("stages", "src/naruto_add", "base/recipe", "benchmarks", "tests")
HEAD = """# Every source file, in one line

The line is the first one of the file's docstring. `python -m tests.code_map` writes this page.
"""


def code_map() -> str:
    """The page: a table for each folder that holds modules."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if file.stat().st_size]
    tables: dict[str, list[str]] = {}
    for file in files:
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        assert doc, f"{file} has no docstring"
        folder = file.parent.relative_to(ROOT).as_posix()
        tables.setdefault(folder, []).append(f"| `{file.name}` | {doc.splitlines()[0]} |")
    parts = ["\n".join([f"## `{folder}/`", "", "| file | |", "|---|---|", *rows]) for folder, rows in tables.items()]
    return "\n".join([HEAD, "\n\n".join(parts), ""])


if __name__ == "__main__":
    MAP.write_text(code_map(), encoding="utf-8")
