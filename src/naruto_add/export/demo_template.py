"""The pages of `demo/` that `npm run build` makes: the demo page before a model is in it or beside it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from naruto_add.runtime.errors import StageError

BUILT = Path("dist/page.html")
"""What the build writes, in the folder `demo/`: the page for a model that is in it."""
BUILT_BESIDE = Path("dist/page_beside.html")
"""The page for a model in files beside it."""
BUILD = "`make demo`, or `npm ci --ignore-scripts && npm run build` in the folder demo"


@dataclass(frozen=True)
class Templates:
    """Both built pages."""

    inside: str
    beside: str


def read_templates(demo_dir: Path) -> Templates:
    """The built pages. Raises StageError, with the commands, if one is missing or was built from other sources."""
    return Templates(_read(demo_dir, BUILT), _read(demo_dir, BUILT_BESIDE))


def _read(demo_dir: Path, name: Path) -> str:
    path = demo_dir / name
    if not path.is_file():
        raise StageError(
            f"export.formats: demo needs {path}, which is not built; install Node.js 20 or later, which has npm, and "
            f"run {BUILD}; or leave demo out"
        )
    page = path.read_text(encoding="utf-8")
    built_from = re.search(r'<meta name="sources" content="([0-9a-f]*)">', page[:5000])
    if built_from is None or built_from[1] != sources_hash(demo_dir):
        raise StageError(f"export.formats: demo: {path} was built from other sources; run {BUILD}; or leave demo out")
    return page


def sources_hash(demo_dir: Path) -> str:
    """The hash that `demo/build.mjs` writes into the pages."""
    names = ["build.mjs", "package-lock.json", *(f"src/{path.name}" for path in (demo_dir / "src").iterdir())]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\n".encode())
        digest.update((demo_dir / name).read_bytes())
    return digest.hexdigest()
