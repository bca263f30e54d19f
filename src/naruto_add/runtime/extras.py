"""Packages of extras, which the project does not always have, and how to install the tested versions of them."""

from importlib.util import find_spec

from naruto_add.runtime.errors import StageError

ONNX = ("onnx", "onnxruntime", "onnxscript")


def install_command(*packages: str) -> str:
    """The command that adds packages of extras to an environment, and changes no locked package in it."""
    return f"uv pip install --constraints tests/requirements.lock {' '.join(packages)}"


def require_onnx() -> None:
    """Raises StageError if a package of the extra onnx is missing."""
    missing = [name for name in ONNX if find_spec(name) is None]
    if missing:
        remedy = f"`{install_command(*ONNX)}`, or leave onnx out"
        raise StageError(f"export.formats: onnx needs {', '.join(missing)}, not installed here; {remedy}")
