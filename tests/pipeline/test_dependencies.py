"""The written dependencies are the import closure of each stage, and nothing else in dvc.yaml changes."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from naruto_add.pipeline.dependencies import composed_dependencies, write_dependencies
from naruto_add.pipeline.imports import import_closure
from naruto_add.pipeline.packages import computing_packages
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]
PIPELINE = """\
# A remark on the pipeline.
stages:
  add:
    desc: A stage with params
    cmd: python -m stages.add
    params:
      - add   # a remark on params
      - packages.yaml:
          - peft
    deps:
      - data/dataset   # a remark on data
      - src/naruto_add/unused.py
      - ${ingest.path}
    outs:
      - models/distilled:
          cache: false
  report:
    cmd: python -m stages.report
    outs:
      - report.html

plots:
  - metrics/grid.png   # a remark on plots
"""
WRITTEN = """\
# A remark on the pipeline.
stages:
  add:
    desc: A stage with params
    cmd: python -m stages.add
    params:
      - add   # a remark on params
      - packages.yaml:
          - numpy
          - safetensors
          - tokenizers
          - transformers
    deps:
      - data/dataset   # a remark on data
      - ${ingest.path}
      - src/naruto_add/direct.py
      - src/naruto_add/grid.py
      - src/naruto_add/grid_font.ttf
      - src/naruto_add/sub/hidden.py
      - stages/__init__.py
      - stages/add.py
    outs:
      - models/distilled:
          cache: false
  report:
    cmd: python -m stages.report
    deps:
      - stages/__init__.py
      - stages/report.py
    outs:
      - report.html

plots:
  - metrics/grid.png   # a remark on plots
"""
LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:00
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:00
safetensors==0.8.0 \\
    --hash=sha256:00
tokenizers==0.23.3 \\
    --hash=sha256:00
torch==2.15.0 \\
    --hash=sha256:00
transformers==5.23.0 \\
    --hash=sha256:00
"""
FILES = {
    "dvc.yaml": PIPELINE,
    "requirements.lock": LOCK,
    "stages/__init__.py": "import sys\n",
    "stages/add.py": "def main():\n    from naruto_add import direct\n",
    "stages/report.py": "import json\n",
    "src/naruto_add/__init__.py": "",
    "src/naruto_add/direct.py": "from naruto_add.sub import hidden\nfrom naruto_add import grid\n",
    "src/naruto_add/grid.py": "import numpy as np\n",
    "src/naruto_add/grid_font.ttf": "font",
    "src/naruto_add/sub/__init__.py": "",
    "src/naruto_add/sub/hidden.py": "def f():\n    import tqdm, transformers.utils\n",
    "src/naruto_add/unused.py": "import torch\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_code_and_packages_are_written_and_the_rest_stays(project: Path) -> None:
    assert write_dependencies(project)
    assert (project / "dvc.yaml").read_text() == WRITTEN


def test_packages_have_their_locked_versions(project: Path) -> None:
    write_dependencies(project)
    assert YAML(typ="safe").load(project / "packages.yaml") == {
        "numpy": "2.4.6 | 2.5.5",
        "safetensors": "0.8.0",
        "tokenizers": "0.23.3",
        "transformers": "5.23.0",
    }


def test_a_second_run_writes_nothing(project: Path) -> None:
    write_dependencies(project)
    before = {name: (project / name).stat().st_mtime_ns for name in ("dvc.yaml", "packages.yaml")}
    assert not write_dependencies(project)
    assert {name: (project / name).stat().st_mtime_ns for name in before} == before


def test_a_new_import_is_written(project: Path) -> None:
    write_dependencies(project)
    (project / "stages/report.py").write_text("from naruto_add import unused\n")
    assert write_dependencies(project)
    fields = YAML(typ="safe").load(project / "dvc.yaml")["stages"]["report"]
    assert fields["deps"] == ["src/naruto_add/unused.py", "stages/__init__.py", "stages/report.py"]
    assert fields["params"] == [{"packages.yaml": ["torch"]}]
    assert YAML(typ="safe").load(project / "packages.yaml")["torch"] == "2.15.0"


def test_a_package_that_is_not_locked_is_refused(project: Path) -> None:
    (project / "requirements.lock").write_text(LOCK.replace("transformers==", "transformer=="))
    with pytest.raises(StageError, match=r"requirements\.lock: transformers is missing; run `make lock`"):
        write_dependencies(project)
    assert (project / "dvc.yaml").read_text() == PIPELINE


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(StageError, match=r"jax: add it to COMPUTING or NOT_COMPUTING in packages\.py"):
        computing_packages(["jax", "torch", "tqdm"])


def test_files_that_are_left_out_are_followed_but_not_counted(project: Path) -> None:
    closure = import_closure(project, "stages.add", without=frozenset({"src/naruto_add/grid.py"}))
    assert "src/naruto_add/grid.py" not in closure.files
    assert closure.packages == {"tqdm", "transformers"}
    closure = import_closure(project, "stages.add", without=frozenset({"src/naruto_add/direct.py"}))
    assert "src/naruto_add/sub/hidden.py" in closure.files


def test_what_only_a_check_imports_does_not_count(project: Path) -> None:
    direct = frozenset({"src/naruto_add/direct.py"})
    assert import_closure(project, "stages.add", without=direct, ends=direct).files == {
        "stages/__init__.py",
        "stages/add.py",
    }


def test_the_committed_files_are_what_the_command_writes() -> None:
    """Run `naruto-add deps` if this fails."""
    written: tuple[Any, ...] = tuple((ROOT / name).read_text() for name in ("dvc.yaml", "packages.yaml"))
    assert composed_dependencies(ROOT) == written
